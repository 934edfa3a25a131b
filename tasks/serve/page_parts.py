"""Parts of the page: the player of a stream, and what stands below the sounds. T samples."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..inference.result import SpeechResult
from ..inference.timestamps import Timestamp
from ..page import spectrogram

try:
    import gradio as gr
except ImportError:
    raise ImportError("the page needs gradio: pip install 'focallm[serve]'") from None

_STOP_REASONS = {
    "end": "the model ended by itself",
    "max_length": "the longest length that is allowed",
    "constraint": "the length is that of the input",
}


def stream_player() -> gr.HTML:
    """Make the player of a stream, whose value is {"run", "rate", "chunks"}; see player.js."""
    script = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")
    return gr.HTML(None, html_template='<p class="player-status"></p>', js_on_load=script, elem_id="player")


def encode_chunk(chunk: np.ndarray) -> str:
    """Encode a chunk (T,) for the player: 16-bit samples in base64."""
    return base64.b64encode(to_int16(chunk).astype("<i2").tobytes()).decode()


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Convert audio in [-1, 1] to 16 bits. Of floats, gradio would change the level."""
    return (audio.clip(-1, 1) * 32767).round().astype(np.int16)


def sound(audio: np.ndarray, sampling_rate: int) -> tuple[int, np.ndarray]:
    """Return audio (T,) as the value of a `gr.Audio`."""
    return sampling_rate, to_int16(audio)


def picture(audio: np.ndarray, sampling_rate: int, title: str) -> str:
    """Return the spectrogram of audio (T,) as HTML."""
    content = base64.b64encode(spectrogram(audio, sampling_rate)).decode()
    return f'<img class="spectrogram" alt="spectrogram: {html.escape(title)}" src="data:image/png;base64,{content}">'


def words_in_time(words: Sequence[Timestamp]) -> str:
    """Return words with their times as HTML."""
    spans = []
    for word in words:
        times = f"{word.start_s:.2f} to {word.end_s:.2f} s"
        spans.append(f'<span class="word">{html.escape(word.text)}<small>{times}</small></span>')
    return "".join(spans)


def report(result: SpeechResult, warnings: Sequence[str] = ()) -> str:
    """Describe in Markdown how a result came about: speed, latency, stop reason, and what was warned about."""
    stats = result.stats
    parts = [
        f"**{stats['seconds']:.2f} s** of sound in **{stats['elapsed_s']:.2f} s**",
        f"{stats['tokens']} tokens",
        f"stop reason **{result.stop_reason}**: {_STOP_REASONS[result.stop_reason]}",
    ]
    if "time_to_first_audio_s" in stats:
        parts.insert(1, f"first sound after **{stats['time_to_first_audio_s']:.2f} s**")
    lines = [" · ".join(parts)]
    for warning in warnings:
        lines.append(f"Note: {html.escape(warning)}")
    return "\n\n".join(lines)


def mistake(sentence: str) -> str:
    """Return a sentence about what went wrong as Markdown."""
    return f'<span class="mistake">{html.escape(sentence[:1].upper() + sentence[1:])}.</span>'
