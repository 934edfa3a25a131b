"""Description of a codec or speech language model for people."""

from ..lm import SpeechLM
from ..lm.loading import is_speech_lm
from ..tokenizer import AudioTokenizer


def describe_model(source: str) -> str:
    """Describe a model in a few lines: kind, tasks, parameters, vocabulary, rates.

    Args:
        source: "mini", a folder or a hub id.
    """
    if not is_speech_lm(source):
        return describe_codec(AudioTokenizer.from_pretrained(source))

    lm = SpeechLM.from_pretrained(source)
    tasks = ", ".join(template.name for template in lm.info.templates)
    lines = [
        f"language model  {lm.model.config.model_type}, {lm.model.num_parameters() / 1e6:.2f} M parameters, {tasks}",
        f"vocabulary      {len(lm.vocabulary)} ids, audio from {lm.vocabulary.audio_offset}",
        f"voices          {', '.join(lm.info.voices)}",
    ]
    # Models that do not speak have no length window.
    window = lm.info.length_window
    if window is not None:
        lines.append(f"pace            {window.fastest:.3f} to {window.slowest:.3f} s per character")
    return "\n".join([*lines, describe_codec(lm.audio_tokenizer)])


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
