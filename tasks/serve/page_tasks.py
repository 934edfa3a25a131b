"""What the page does with the text and the recordings of a visitor. T samples.

A task gets all it needs from its arguments and keeps nothing, so visitors cannot see each other's results.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...lm.continuous_batching import ContinuousBatch
from ...lm.model import SpeechLM
from ...tokenizer import AudioTokenizer
from ...tokenizer.audio import read_audio, read_header
from ...tokenizer.waveform import Waveform
from ..inference.convert import convert
from ..inference.enhance import enhance
from ..inference.inputs import open_model
from ..inference.result import SpeechResult
from ..inference.separate import separate
from ..inference.speak import SpeechStream, can_speak_as, default_sampling, stream_speech

_MIN_S = 0.1  # of a recording
_SILENT_PEAK = 1e-3  # 60 dB below full scale, where a recording has only noise


@dataclass(frozen=True)
class PageLimits:
    """How much a visitor may send at once: seconds of a recording, and characters of a text."""

    seconds: float = 30.0
    characters: int = 1000


@dataclass(frozen=True)
class Recording:
    """A recording (T,) of a visitor, with its rate in Hz."""

    audio: Waveform
    sampling_rate: int


@dataclass(frozen=True)
class PageTasks:
    """The tasks of the page.

    Args:
        models: Task -> model: "tts", "se" and "ss". Tasks that are missing get no tab.
        generator: The `ContinuousBatch` of a server, if there is one, to speak with.
        limits: How much a visitor may send.
    """

    models: Mapping[str, SpeechLM]
    generator: ContinuousBatch | None = None
    limits: PageLimits = field(default_factory=PageLimits)

    @property
    def codec(self) -> AudioTokenizer:
        """The codec of the first model."""
        return next(iter(self.models.values())).audio_tokenizer

    def read(self, path: str | None, noun: str = "recording") -> Recording:
        """Read a recording that a visitor made or uploaded.

        Args:
            path: Of the file, if there is one.
            noun: What an error calls the recording.

        Raises:
            ValueError: There is no recording, or it is too short, too long, silent or damaged.
            OSError: The file is not audio that can be read.
        """
        if path is None:
            raise ValueError(f"there is no {noun}: record one with the microphone, or choose a file")
        try:
            num_frames, rate = read_header(path)
            self._check_duration(num_frames / rate, noun)
            audio, rate = read_audio(path)
        except (ValueError, OSError) as error:
            # Visitors know the name of their file, not the folder of this machine.
            raise ValueError(str(error).replace(path, Path(path).name)) from None
        # The header of some formats does not state the length.
        self._check_duration(len(audio) / rate, noun)
        if np.abs(audio - audio.mean()).max() < _SILENT_PEAK:
            raise ValueError(f"the {noun} is silent: check the microphone, or choose another file")
        return Recording(audio, rate)

    def speak(
        self,
        text: str,
        voice: str | None,
        reference: str | None,
        reference_text: str,
        speed: float | None,
        temperature: float | None,
        seed: int | None,
    ) -> SpeechStream:
        """Begin to speak a text.

        Args:
            text: The text.
            voice: One of the model's voices, unless there is a reference.
            reference: File of a recording of the voice to imitate.
            reference_text: What is said in it, for models that need that.
            speed: How many times faster than the model would speak.
            temperature: Of the sampling; 0 is greedy.
            seed: Of the sampling.

        Raises:
            ValueError: As in `stream_speech` and `read`, or the text is too long.
        """
        if not text.strip():
            raise ValueError("there is no text: type what to say")
        if len(text) > self.limits.characters:
            raise ValueError(
                f"the text has {len(text)} characters, and this page takes up to {self.limits.characters}: shorten it"
            )
        if speed is None or temperature is None or seed is None:
            raise ValueError("speed, temperature and seed are numbers: type them")
        lm = self.models["tts"]
        if reference is None and not can_speak_as(lm, by_reference=False):
            raise ValueError("this model speaks in the voice of a recording: record a voice, or choose a file")
        options: dict[str, Any] = {"speed": speed}
        if reference is None:
            options["voice"] = voice
        else:
            recording = self.read(reference, "recording of the voice")
            options["reference"] = recording.audio
            options["sampling_rate"] = recording.sampling_rate
            options["reference_text"] = reference_text.strip() or None
        if self.generator is not None:
            options["generator"] = self.generator
        sampling = replace(default_sampling(lm, by_reference=reference is not None), temperature=temperature)
        return stream_speech(text, lm, sampling=sampling, seed=seed, **options)

    def enhance(self, recording: Recording) -> SpeechResult:
        """Enhance a recording."""
        result: Any = enhance(recording.audio, self.models["se"], recording.sampling_rate)
        return result

    def separate(self, recording: Recording, num_speakers: int) -> SpeechResult:
        """Separate the speakers of a recording."""
        result: Any = separate(recording.audio, self.models["ss"], num_speakers, recording.sampling_rate)
        return result

    def convert(self, recording: Recording, voice: Recording) -> SpeechResult:
        """Give a recording the voice of another one."""
        lm = next(iter(self.models.values()))
        voice_row = {"array": voice.audio, "sampling_rate": voice.sampling_rate}
        result: Any = convert(recording.audio, voice_row, lm, sampling_rate=recording.sampling_rate)
        return result

    def encode(self, recording: Recording) -> list[int]:
        """Return the token ids of a recording."""
        return self.codec(recording.audio, recording.sampling_rate)["input_ids"][0].tolist()

    def decode(self, text: str) -> SpeechResult:
        """Decode ids that are written as numbers with spaces or commas between them.

        Raises:
            ValueError: There are no ids, too many, or something that is not an id.
        """
        words = re.split(r"[\s,\[\]]+", text.strip(" ,[]\n"))
        if words == [""]:
            raise ValueError("there are no ids: encode a recording first, or type numbers")
        for word in words:
            if not word.isdecimal() or int(word) >= self.codec.vocab_size:
                raise ValueError(f"ids are numbers from 0 to {self.codec.vocab_size - 1}, found {word[:20]!r}")
        self._check_duration(len(words) / self.codec.tokens_per_second, "sequence of ids")
        audio = self.codec.decode([int(word) for word in words])
        return SpeechResult(audio, self.codec.output_sampling_rate, "constraint", {"tokens": len(words)})

    def _check_duration(self, seconds: float, noun: str) -> None:
        if seconds > self.limits.seconds:
            raise ValueError(
                f"the {noun} lasts {seconds:.1f} s, and this page takes up to {self.limits.seconds:g} s: cut it"
            )
        if seconds < _MIN_S:
            raise ValueError(f"the {noun} lasts only {1000 * seconds:.0f} ms: make it longer")


def load_page_models(model: str | Path = "mini") -> dict[str, SpeechLM]:
    """Load the model of each task. Tasks that share weights share the model.

    Args:
        model: mini, a folder or a hub id.

    Raises:
        OSError: There is no such model.
        ValueError: The model was trained for other tasks.
    """
    if str(model) == "mini":
        rewriter = open_model(model, "se")
        return {"tts": open_model(model), "se": rewriter, "ss": rewriter}
    lm = open_model(model)
    names = {template.name for template in lm.info.templates}
    models = {}
    if can_speak_as(lm, by_reference=False) or can_speak_as(lm, by_reference=True):
        models["tts"] = lm
    for task in ("se", "ss"):
        if names & {task, f"{task}-features"}:
            models[task] = lm
    if not models:
        raise ValueError(
            f"the page needs a model that speaks, enhances or separates, found one for {', '.join(sorted(names))}: "
            "name another with --model"
        )
    return models


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect what the package warns about in this thread; requests of other visitors have other threads."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("focallm")
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
