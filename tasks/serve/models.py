"""The models that a server has loaded, by name."""

from dataclasses import dataclass
from pathlib import Path

from ...lm.continuous_batching import ContinuousBatch
from ...lm.loading import PACKAGED_MODELS
from ...lm.model import SpeechLM
from ..inference.measured import harm
from ..inference.speak import can_speak_as
from .errors import ApiError

# What the routes call the tasks -> templates of which a model needs one.
TASK_TEMPLATES = {
    "speech": ("tts-aligned", "tts", "zero-shot-aligned", "zero-shot"),
    "transcription": ("asr",),
    "enhance": ("se-features", "se"),
    "separate": ("ss-features", "ss"),
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
        return can_speak_as(self.lm, by_reference=True) and "zero-shot-aligned" in self.lm.info.tasks


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


_WORDS = {
    "speech": "speech from text",
    "transcription": "transcription (asr)",
    "enhance": "enhancement (se)",
    "separate": "separation (ss)",
    "convert": "voice conversion (vc)",
}
