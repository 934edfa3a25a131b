"""Description of a codec or speech language model for people."""

from collections.abc import Sequence
from pathlib import Path

from ..lm import SpeechLM
from ..lm.loading import PACKAGED_MODELS, is_speech_lm
from ..tokenizer import AudioTokenizer
from ..tokenizer.codecs.auto import CODEC_NAMES
from ..tokenizer.hub import is_hub_id, unknown_source
from .inference.measured import harm

_VOICES_IN_A_LINE = 6
# Endings of the names of voices that were trained at another pace too.
_PACES = ("_slow", "_fast")


def describe_model(source: str) -> str:
    """Describe a model in a few lines: kind, tasks, parameters, vocabulary, rates.

    Args:
        source: "mini", a folder or a hub id.
    """
    known = [*PACKAGED_MODELS, *CODEC_NAMES]
    if source not in known and not Path(source).exists() and not is_hub_id(source):
        raise unknown_source(source, "model", list(dict.fromkeys(known)))
    if not is_speech_lm(source):
        return describe_codec(AudioTokenizer.from_pretrained(source))

    lm = SpeechLM.from_pretrained(source)
    tasks = ", ".join(template.name for template in lm.info.templates)
    lines = [
        f"language model  {lm.model.config.model_type}, {lm.model.num_parameters() / 1e6:.2f} M parameters, {tasks}",
        f"vocabulary      {len(lm.vocabulary)} ids, audio from {lm.vocabulary.audio_offset}",
        *_voice_lines(lm.info.voices),
    ]
    # Models that do not speak have no length window.
    window = lm.info.length_window
    if window is not None:
        lines.append(f"pace            {window.fastest:.3f} to {window.slowest:.3f} s per character")
    for task in ("se", "ss"):
        template_names = {task, f"{task}-features"}
        sentence = "" if template_names.isdisjoint(lm.info.tasks) else harm(source, task)
        if sentence:
            lines.append(f"warning         {sentence}")
    return "\n".join([*lines, describe_codec(lm.audio_tokenizer)])


def _voice_lines(voices: Sequence[str]) -> list[str]:
    """Return the voices in columns, without those that only differ in pace."""
    names = [voice for voice in voices if not voice.endswith(_PACES)]
    if not names:
        return []
    width = max(map(len, names)) + 2
    lines: list[str] = []
    for start in range(0, len(names), _VOICES_IN_A_LINE):
        title = "" if lines else "voices"
        row = "".join(name.ljust(width) for name in names[start : start + _VOICES_IN_A_LINE])
        lines.append(f"{title:16}{row}".rstrip())
    if len(names) < len(voices):
        lines.append(f"{'':16}some also at another pace: NAME_slow, NAME_fast")
    return lines


def describe_codec(tokenizer: AudioTokenizer) -> str:
    """Describe a codec: class, parameters, rates, codebooks."""
    parameters = sum(p.numel() for p in tokenizer.codec.parameters())
    lines = [
        f"codec           {type(tokenizer.codec).__name__}, {parameters / 1e6:.2f} M parameters",
        f"rates           {tokenizer.sampling_rate} Hz in, {tokenizer.output_sampling_rate} Hz out, "
        f"{tokenizer.frame_rate:g} frames/s",
        f"tokens          {tokenizer.num_codebooks} x {tokenizer.codebook_size}, {tokenizer.bits_per_second:.0f} bit/s",
    ]
    return "\n".join(lines)
