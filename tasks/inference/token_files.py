"""Token files: the codes of one recording in an .npz."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...tokenizer import AudioTokenizer, write_audio
from ...tokenizer.files import whole_file


def encode_file(audio: Path, out: Path, codec: str = "mini") -> str:
    """Encode a recording into a token file.

    Args:
        audio: Audio file to read.
        out: .npz file to write: `codes` (N,) or (N, K), and `num_samples` at the codec's input rate.
        codec: "mini", a folder or a hub id.

    Returns:
        One line about the file.

    Raises:
        ValueError: `out` does not end in .npz.
        OSError: The recording cannot be read.
    """
    if out.suffix != ".npz":
        raise ValueError(f"a token file ends in .npz, found {out}: name the file {out.with_suffix('.npz')}")
    tokenizer = AudioTokenizer.from_pretrained(codec)
    encoded = tokenizer(audio)
    # No codec has more ids than 32 bits can count, and token files are half as large as with 64.
    codes = encoded["input_ids"][0].numpy().astype(np.int32)
    num_samples = int(encoded["num_samples"][0])
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        np.savez(temporary, codes=codes, num_samples=num_samples)
    seconds = num_samples / tokenizer.sampling_rate
    return f"{out}: {seconds:.2f} s, {len(codes)} tokens, {tokenizer.bits_per_second:.0f} bit/s"


def decode_file(tokens: Path, out: Path, codec: str = "mini") -> str:
    """Decode a token file into a recording.

    Args:
        tokens: .npz file that `encode_file` wrote.
        out: Audio file to write.
        codec: The codec that made the tokens.

    Returns:
        One line about the recording.

    Raises:
        FileNotFoundError: There is no such token file.
        ValueError: The file is damaged or not a token file.
    """
    if not tokens.is_file():
        raise FileNotFoundError(f"there is no token file {tokens}: make one with focallm encode")
    # A file that is no .npz, or a damaged one, fails in one of five ways.
    try:
        with np.load(tokens, allow_pickle=False) as file:
            codes = file["codes"]
            num_samples = int(file["num_samples"])
    except (ValueError, KeyError, EOFError, TypeError, BadZipFile):
        raise ValueError(f"{tokens} is damaged or not a token file: make one with focallm encode") from None
    tokenizer = AudioTokenizer.from_pretrained(codec)
    audio = tokenizer.decode(codes, num_samples=num_samples)
    write_audio(out, audio, tokenizer.output_sampling_rate)
    rate = tokenizer.output_sampling_rate
    return f"{out}: {len(audio) / rate:.2f} s at {rate} Hz"
