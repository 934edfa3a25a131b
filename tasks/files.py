"""A codec on files: a recording to a token file, a token file to a recording, and what a model is."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..lm import SpeechLM
from ..lm.loading import is_speech_lm
from ..tokenizer import AudioTokenizer, write_audio
from ..tokenizer.files import whole_file


def encode_file(audio: Path, out: Path, codec: str = "mini") -> str:
    """Write `codes` and `num_samples` of a recording into an .npz; -> a line that says so."""
    if out.suffix != ".npz":
        raise ValueError(f"tokens are written as .npz, found {out}: name the file {out.with_suffix('.npz')}")
    tokenizer = AudioTokenizer.from_pretrained(codec)
    encoded = tokenizer(audio)
    codes = encoded["input_ids"][0].numpy().astype(np.int32)
    num_samples = int(encoded["num_samples"][0])
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        np.savez(temporary, codes=codes, num_samples=num_samples)
    seconds = num_samples / tokenizer.sampling_rate
    return f"{out}: {seconds:.2f} s, {len(codes)} tokens, {tokenizer.bits_per_second:.0f} bit/s"


def decode_file(tokens: Path, out: Path, codec: str = "mini") -> str:
    """Write the sound of a token file; -> a line that says so."""
    if not tokens.is_file():
        raise FileNotFoundError(f"there is no token file {tokens}: make one with focallm encode")
    try:
        with np.load(tokens, allow_pickle=False) as file:
            codes, num_samples = file["codes"], int(file["num_samples"])
    except (ValueError, KeyError, EOFError, TypeError, BadZipFile):
        raise ValueError(f"{tokens} is not a token file, or damaged: make one with focallm encode") from None
    tokenizer = AudioTokenizer.from_pretrained(codec)
    audio = tokenizer.decode(codes, num_samples=num_samples)
    write_audio(out, audio, tokenizer.output_sampling_rate)
    return f"{out}: {len(audio) / tokenizer.output_sampling_rate:.2f} s at {tokenizer.output_sampling_rate} Hz"


def describe_model(source: str) -> str:
    """What a folder, hub id or "mini" holds, in a few lines."""
    lines = []
    if is_speech_lm(source):
        lm = SpeechLM.from_pretrained(source)
        tokenizer = lm.audio_tokenizer
        window = lm.info.length_window
        kind, parameters = lm.model.config.model_type, lm.model.num_parameters()
        tasks = ", ".join(template.name for template in lm.info.templates)
        lines += [
            f"language model  {kind}, {parameters / 1e6:.2f} M parameters, {tasks}",
            f"vocabulary      {len(lm.vocabulary)} ids, audio from {lm.vocabulary.audio_offset}",
            f"voices          {', '.join(lm.info.voices)}",
        ]
        if window is not None:
            lines.append(f"pace            {window.fastest:.3f} to {window.slowest:.3f} s per character")
    else:
        tokenizer = AudioTokenizer.from_pretrained(source)
    parameters = sum(p.numel() for p in tokenizer.codec.parameters())
    lines += [
        f"codec           {type(tokenizer.codec).__name__}, {parameters / 1e6:.2f} M parameters",
        f"rates           {tokenizer.sampling_rate} Hz in, {tokenizer.output_sampling_rate} Hz out, "
        f"{tokenizer.frame_rate:g} frames/s",
        f"tokens          {tokenizer.num_codebooks} x {tokenizer.codebook_size}, {tokenizer.bits_per_second:.0f} bit/s",
    ]
    return "\n".join(lines)
