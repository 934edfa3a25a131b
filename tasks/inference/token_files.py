"""Token files: the codes of one recording in an .npz, with the codec that made them."""

import logging
from pathlib import Path

import numpy as np

from ...data.token_store import weights_hash
from ...tokenizer import AudioTokenizer, write_audio
from ...tokenizer.audio import check_suffix
from ...tokenizer.configs import errors_named
from ...tokenizer.files import whole_file

logger = logging.getLogger(__name__)


def encode_file(audio: Path, out: Path, codec: str = "mini") -> str:
    """Encode a recording into a token file.

    Args:
        audio: Audio file to read.
        out: .npz file to write: `codes` (L,), `num_samples` at the codec's input rate, `codec` (its name), and
            `weights_sha256`.
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
        np.savez(
            temporary,
            codes=codes,
            num_samples=num_samples,
            codec=codec,
            weights_sha256=weights_hash(tokenizer.codec.pretrained_model),
        )
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
        ValueError: The file is damaged or not a token file, or another codec made it.
    """
    check_suffix(out)
    if not tokens.is_file():
        raise FileNotFoundError(f"there is no token file {tokens}: make one with focallm encode")
    # A file that is no .npz, or a damaged one, fails in many ways; a wrong shape in it asks for absurd memory.
    try:
        with np.load(tokens, allow_pickle=False) as file:
            codes = file["codes"]
            num_samples = int(file["num_samples"])
            made_by = str(file["codec"]) if "codec" in file else None
            expected = str(file["weights_sha256"]) if "weights_sha256" in file else None
    except Exception:
        raise ValueError(f"{tokens} is damaged or not a token file: make one with focallm encode") from None
    tokenizer = AudioTokenizer.from_pretrained(codec)
    if expected is None:
        logger.warning(
            "%s does not say which codec made it, as in older versions: if it was not %s, the sound is wrong",
            tokens,
            codec,
        )
    elif weights_hash(tokenizer.codec.pretrained_model) != expected:
        raise ValueError(
            f"{tokens} was made by the codec {made_by}, whose weights differ from those of {codec}: decode it with\n"
            f"  focallm decode {tokens} {out} --codec {made_by}"
        )
    with errors_named(tokens):
        if not 0 < num_samples <= _longest(codes, tokenizer):
            raise ValueError(
                f"num_samples is {num_samples}, which does not belong to {codes.size} tokens of this codec: make the "
                "file with focallm encode, and decode it with the same codec"
            )
        audio = tokenizer.decode(codes, num_samples=num_samples)
    write_audio(out, audio, tokenizer.output_sampling_rate)
    rate = tokenizer.output_sampling_rate
    return f"{out}: {len(audio) / rate:.2f} s at {rate} Hz"


def _longest(codes: np.ndarray, tokenizer: AudioTokenizer) -> int:
    """Return the number of samples that some tokens can stand for at most, and a second more."""
    num_frames = codes.size // tokenizer.num_codebooks + 1
    return round((num_frames / tokenizer.frame_rate + 1) * tokenizer.sampling_rate)
