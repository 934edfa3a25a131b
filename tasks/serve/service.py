"""What the routes share: the models, the voices, the places, and the threads that do the work."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from ...lm.continuous_batching import ContinuousBatch
from ...lm.loading import PACKAGED_MODELS
from ...lm.model import SpeechLM
from ..definitions import NAMED_VOICE_TASKS, REFERENCE_TASKS
from ..inference.measured import harm
from .errors import ApiError
from .limits import Places, too_slow
from .metrics import Metrics
from .voices import VoiceStore

_T = TypeVar("_T")
# Recordings that are processed at the same time. A model needs all cores for one of them.
_MAX_RECORDINGS = 2
# What the routes call the tasks -> templates of which a model needs one.
TASK_TEMPLATES = {
    "speech": NAMED_VOICE_TASKS + REFERENCE_TASKS,
    "transcription": ("asr",),
    "enhance": ("se-features", "se"),
    "separate": ("ss-features", "ss"),
}
_WORDS = {
    "speech": "speech from text",
    "transcription": "transcription (asr)",
    "enhance": "enhancement (se)",
    "separate": "separation (ss)",
    "convert": "voice conversion (vc)",
}


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Args:
        name: What requests call it.
        lm: The model.
        batch: Speaks the texts of all requests together, if the model speaks.
        warnings: By task, a sentence about the harm that was measured.
    """

    name: str
    lm: SpeechLM
    batch: ContinuousBatch | None
    warnings: dict[str, str]

    @property
    def tasks(self) -> list[str]:
        """What the model can be used for: names in `TASK_TEMPLATES`, and "convert"."""
        tasks = []
        for task, templates in TASK_TEMPLATES.items():
            if not set(templates).isdisjoint(self.lm.info.tasks):
                tasks.append(task)
        # Without a model for it, the features of the codec convert voices, see `inference.convert`.
        codec = self.lm.audio_tokenizer.codec
        if "vc" in self.lm.info.tasks or getattr(codec, "feature_dim", None) is not None:
            tasks.append("convert")
        return tasks

    @property
    def is_aligned(self) -> bool:
        """Whether the model knows when it speaks each phoneme."""
        return self.lm.info.longest_unit_s is not None

    @property
    def imitates(self) -> bool:
        """Whether the model speaks in the voice of a recording, without its transcript."""
        return "zero-shot-aligned" in self.lm.info.tasks


def prepare_model(name: str, source: str | Path, lm: SpeechLM, max_running: int = 16) -> ServedModel:
    """Prepare a loaded model for requests.

    Args:
        name: What requests call it.
        source: Where it comes from: a name in the package, a folder or a hub id.
        lm: The model.
        max_running: How many texts it speaks at the same time.
    """
    can_speak = not set(TASK_TEMPLATES["speech"]).isdisjoint(lm.info.tasks)
    batch = ContinuousBatch(lm, max_rows=max_running) if can_speak else None
    warnings = {"enhance": harm(source, "se"), "separate": harm(source, "ss")}
    return ServedModel(name, lm, batch, warnings)


def load_models(sources: list[str], max_running: int) -> dict[str, ServedModel]:
    """Load models.

    Args:
        sources: Names in the package, folders or hub ids, each also as NAME=SOURCE. By default those in the package.
        max_running: How many texts a model speaks at the same time.

    Raises:
        ValueError: Two models have the same name.
        OSError: There is no such model.
    """
    models: dict[str, ServedModel] = {}
    for source in sources or list(PACKAGED_MODELS):
        name, _, location = source.rpartition("=")
        name = name or default_name(location)
        if name in models:
            raise ValueError(f"two models are called {name}: name one of them, as in focallm serve {name}-2={location}")
        models[name] = prepare_model(name, location, SpeechLM.from_pretrained(location), max_running)
    return models


def default_name(source: str) -> str:
    """Return the name of a model: of a folder its last part, or, of a folder `model`, the one of the training run."""
    path = Path(source)
    if source in PACKAGED_MODELS or not path.exists():
        return source
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def first_model(models: dict[str, ServedModel], task: str) -> ServedModel | None:
    """Return the first model that can be used for a task, if there is one."""
    return next((model for model in models.values() if task in model.tasks), None)


def find_model(models: dict[str, ServedModel], name: str, task: str) -> ServedModel:
    """Return a model by name.

    Args:
        models: The loaded models.
        name: From a request.
        task: What the request asks for, as in `ServedModel.tasks`.

    Raises:
        ApiError: No model has the name, or it was not trained for the task.
    """
    if name not in models:
        raise ApiError(
            404, f"no model is called {name!r}; this server has {', '.join(models)}", "model", "model_not_found"
        )
    model = models[name]
    if task not in model.tasks:
        others = [other.name for other in models.values() if task in other.tasks]
        hint = f"use {' or '.join(others)}" if others else "no model of this server was; focallm train makes one"
        raise ApiError(
            400, f"the model {name} was not trained for {_WORDS[task]}: {hint}", "model", "model_not_trained_for_task"
        )
    return model


@dataclass(frozen=True)
class Limits:
    """How much a server accepts.

    Args:
        max_running: Texts that are spoken at the same time.
        max_waiting: Requests that wait for a place.
        max_upload_mb: Longest body of a request.
        max_recording_s: Longest recording in a request.
        timeout_s: Longest time from a request to its last byte.
    """

    max_running: int = 16
    max_waiting: int = 64
    max_upload_mb: float = 25.0
    max_recording_s: float = 120.0
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("max_running", "max_upload_mb", "max_recording_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting cannot be negative, found {self.max_waiting}")


class Service:
    """Does the work of the routes in threads.

    Args:
        models: Loaded models by name.
        voices: Folder of uploaded voices.
        limits: How much the server accepts.
    """

    def __init__(self, models: dict[str, ServedModel], voices: Path, limits: Limits) -> None:
        self.models = models
        self.voices = VoiceStore(voices)
        self.limits = limits
        self.speech_places = Places(limits.max_running, limits.max_waiting)
        self.recording_places = Places(_MAX_RECORDINGS, limits.max_waiting)
        self.metrics = Metrics({"speech": self.speech_places, "recordings": self.recording_places})
        # Open sessions of WebSockets.
        self.sessions: set[Any] = set()
        # Set when the server has been told to stop.
        self.draining = asyncio.Event()
        self._threads = ThreadPoolExecutor(limits.max_running + _MAX_RECORDINGS, "focallm-serve")

    def close(self) -> None:
        """End all work."""
        for model in self.models.values():
            if model.batch is not None:
                model.batch.close()
        self._threads.shutdown(cancel_futures=True)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Process a recording in a thread when there is a place.

        Args:
            work: Function without arguments. Its `ValueError` is a mistake of the client.

        Raises:
            ApiError: The queue is full, the work failed because of what the client sent, or took too long.
        """
        timeout_s = self.limits.timeout_s
        await self.recording_places.acquire(timeout_s)
        future = self.start(work, self.recording_places)
        try:
            # A thread cannot be stopped, so that it goes on, and keeps its place, if nobody waits any more.
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except asyncio.TimeoutError:
            raise too_slow(timeout_s) from None
        except ValueError as error:
            raise ApiError(400, str(error)) from None

    def start(self, work: Callable[[], _T], places: Places) -> "asyncio.Future[_T]":
        """Start a thread, and give its place back when it ends."""
        start = time.monotonic()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)

        def end(future: "asyncio.Future[_T]") -> None:
            places.release(time.monotonic() - start)
            # Python warns of errors that nobody takes, such as those of a client that has gone away.
            if not future.cancelled():
                future.exception()

        future.add_done_callback(end)
        return future


def service_of(request: Request) -> Service:
    """Return the service of the app that answers a request."""
    return request.app.state.service
