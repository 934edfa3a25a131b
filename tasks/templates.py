"""The tasks that come with the package, each a template. A new one is a template more; see notebooks/03_a_new_task."""

from ..lm.templates import Segment, Template

_SPEECH = Segment("codes", "speech", "codes", target=True)
_STREAMS = Segment("codes", "speech", "sources", target=True, streams=True)
_ALIGNED = Segment("aligned", "speech", "codes", target=True)
_TEXT = Segment("text", "text", "text", target=True)
_REFERENCE = Segment("codes", "reference", "reference_codes")

TEMPLATES = {
    template.name: template
    for template in (
        Template("tts", (Segment("text", "voice", "speaker"), Segment("text", "text", "text"), _SPEECH)),
        Template(
            "zero-shot",
            (Segment("text", "reference", "reference_text"), _REFERENCE, Segment("text", "text", "text"), _SPEECH),
        ),
        Template("se", (Segment("codes", "noisy", "noisy_codes"), _SPEECH)),
        Template("se-features", (Segment("features", "noisy", "noisy_features"), _SPEECH)),
        Template("ss", (Segment("codes", "mixture", "mixture_codes"), _STREAMS)),
        Template("ss-features", (Segment("features", "mixture", "mixture_features"), _STREAMS)),
        Template("vc", (Segment("codes", "source", "source_codes"), _REFERENCE, _SPEECH)),
        Template("asr", (Segment("codes", "speech", "codes"), _TEXT)),
        Template("continuation", (_SPEECH,)),
        Template("text", (_TEXT,)),
        Template("tts-aligned", (Segment("text", "voice", "speaker"), _ALIGNED)),
        Template("zero-shot-aligned", (_REFERENCE, _ALIGNED)),
        Template("pronounce", (Segment("text", "text", "text"), Segment("text", "text", "phonemes", target=True))),
    )
}
