"""The first thing a newcomer runs: a recording through the codec, a sentence spoken, and what to think of both."""

import time
from pathlib import Path

import numpy as np
import torch

from ..lm import SpeechLM
from ..lm.loading import MINI
from ..tokenizer import read_audio, write_audio
from ..tokenizer.files import whole_file, write_whole
from ..tokenizer.focalcodec.mel import log_mel
from .tts import speak

SAMPLE = Path(__file__).parent / "samples" / "sample.flac"  # a synthetic voice that no training set holds
SENTENCE = "The quick brown fox jumps over the lazy dog."


def run_demo(audio: Path | None, out: Path) -> str:
    """Write `original.wav`, `codec.wav`, `speech.wav`, `spectrograms.png` and `report.md`; -> the report."""
    lm = SpeechLM.from_pretrained("mini")
    codec = lm.audio_tokenizer
    original, rate = read_audio(audio or SAMPLE, codec.sampling_rate)
    began = time.perf_counter()
    encoded = codec(original)
    decoded = codec.decode(encoded["input_ids"][0], num_samples=len(original))
    elapsed = time.perf_counter() - began
    spoken = speak(SENTENCE, lm)
    out.mkdir(parents=True, exist_ok=True)
    write_audio(out / "original.wav", original, rate)
    write_audio(out / "codec.wav", decoded, codec.output_sampling_rate)
    spoken.save(out / "speech.wav")
    sounds = {"original": original, "through the codec": decoded, f"spoken: {SENTENCE}": spoken.audio}
    draw_spectrograms(sounds, codec.output_sampling_rate, out / "spectrograms.png")

    seconds, tokens = len(original) / rate, encoded["input_ids"].shape[1]
    stats = spoken.stats
    codec_line = (
        f"{out}/original.wav -> {out}/codec.wav: {seconds:.2f} s became {tokens} tokens ({codec.bits_per_second:.0f} "
        f"bit/s instead of {16 * rate}) and sound again, {seconds / elapsed:.0f} times faster than real time."
    )
    speech_line = (
        f'{out}/speech.wav: "{SENTENCE}" in the voice {stats["voice"]}: {stats["tokens"]} tokens, '
        f"{stats['seconds']:.2f} s, stop reason {spoken.stop_reason}, attempt {stats['attempts']}, real-time factor "
        f"{stats['real_time_factor']:.2f} (below 1 is faster than real time)."
    )
    report = f"""\
# focallm demo

{codec_line}

{speech_line}

{out}/spectrograms.png shows all three.

How good the weights in the package are, as measured when they were made:

{(MINI / "measured.md").read_text().strip()}
"""
    write_whole(out / "report.md", report.encode())
    return report


def draw_spectrograms(sounds: dict[str, np.ndarray], sampling_rate: int, path: Path) -> None:
    """Log-mel spectrograms, one above the other, into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6 * len(sounds)), layout="constrained")
    for axes, (title, audio) in zip(figure.subplots(len(sounds), squeeze=False)[:, 0], sounds.items(), strict=True):
        mel = log_mel(torch.from_numpy(audio).float()[None], sampling_rate, 1024, 256, 80)[0]
        extent = (0.0, len(audio) / sampling_rate, 0.0, 80.0)
        axes.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-9, vmax=1, cmap="magma")
        axes.set(title=title, xlabel="time, s", ylabel="mel band")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=80)
