"""What to train: one frozen dataclass, read from YAML."""

import dataclasses
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ...tokenizer.files import read_yaml
from ..embeddings import EmbeddingInit
from ..lora import LoRA
from ..templates import Template

_OURS = ("output_dir", "seed", "data_seed", "remove_unused_columns", "use_cache")  # fields of TrainingArguments


@dataclass(frozen=True)
class ExtraTask:
    """A further task that is learnt from a further store, mixed with the first."""

    task: str
    store: str  # a token store; for the task text also a file with a text per line
    repeat: int = 1  # times that every example comes per epoch

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"extra_tasks: repeat must be at least 1, found {self.repeat}")


@dataclass(frozen=True)
class Evaluation:
    """What is generated at every evaluation, to be heard."""

    samples: int = 4  # validation rows; 0 for none
    asr: str | None = None  # folder of a Whisper model, for word error rates


@dataclass(frozen=True)
class LMRecipe:
    """The model, what it reads and writes, and the fields of `transformers.TrainingArguments`."""

    base: str | None = None  # a causal LM, folder or hub id; or else:
    model: str | dict[str, Any] | None = None  # a name in `SIZES`, or LlamaConfig fields; "mini" without a base
    # Units of text without a base: characters (the default), {pieces: N} to be learnt, or a tokenizer that exists, as a
    # folder, hub id, tokenizer.json or sentencepiece .model.
    text: str | dict[str, int] | None = None
    templates: tuple[Template, ...] = ()  # tasks of your own
    embeddings: EmbeddingInit = "mean"  # of new rows: "mean" of the old ones, or "codec": its code vectors, projected
    lora: LoRA | None = None
    max_length: int = 2048  # ids of a row; longer examples are left out and counted
    packing: bool = True  # several examples in a row; without it each has its own, padded
    prompt_dropout: float = 0.0  # share of examples learnt with emptied givens, for classifier-free guidance
    code_noise: float = 0.0  # share of the codes read in training that are exchanged for others of the same example
    code_smoothing: float = 0.0  # share of a target code's probability that lies on those which differ in one bit
    extra_tasks: tuple[ExtraTask, ...] = ()
    validation_fraction: float = 0.02
    seed: int = 0
    evaluate: Evaluation = field(default_factory=Evaluation)
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base and self.model:
            raise ValueError(f"base ({self.base}) and model ({self.model}) exclude each other: a base has its own size")
        if self.base and self.text:
            raise ValueError(f"base ({self.base}) and text ({self.text}) exclude each other: a base has its tokenizer")
        if self.lora and not self.base:
            raise ValueError("lora needs base: without trained weights there is nothing to adapt")
        _check_text(self.text)
        if self.embeddings not in ("mean", "codec"):
            raise ValueError(f'embeddings must be "mean" or "codec", found {self.embeddings!r}')
        if type(self.max_length) is not int or self.max_length < 2 or type(self.seed) is not int:
            raise ValueError(f"max_length and seed are integers, found {self.max_length!r} and {self.seed!r}")
        if type(self.packing) is not bool:
            raise ValueError(f"packing is true or false, found {self.packing!r}")
        for name in ("prompt_dropout", "code_noise", "code_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of 0 ... 1 (excluded), found {getattr(self, name)}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, found {self.validation_fraction}")
        _check_trainer(self.trainer)


def read_recipe(path: Path | str) -> LMRecipe:
    """Read a YAML recipe.

    Raises:
        ValueError: an unknown key, named with the known ones, or a contradiction.
    """
    values = read_yaml(path) or {}
    try:
        return _build(LMRecipe, values, "an LM recipe")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def training_arguments(recipe: LMRecipe, run: Path, quiet: bool = False) -> TrainingArguments:
    """The recipe's `trainer` over our defaults: bfloat16 where there is hardware for it, checkpoints that resume."""
    hardware = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    defaults = {
        "bf16": hardware and not recipe.trainer.get("fp16") and not recipe.trainer.get("use_cpu"),
        "report_to": ["tensorboard"],
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 20,
        "logging_first_step": True,  # the first loss says whether training begins where it should
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "disable_tqdm": quiet,
    }
    # The Trainer writes its use_cache into the model's configuration and leaves it there; batches say False themselves.
    ours = {"output_dir": str(run), "seed": recipe.seed, "remove_unused_columns": False, "use_cache": True}
    arguments = TrainingArguments(**{**defaults, **recipe.trainer, **ours})
    if "tensorboard" in arguments.report_to and find_spec("tensorboard") is None:
        raise ImportError(
            "training logs need tensorboard: pip install 'focallm[train]', or set trainer.report_to to []"
        )
    return arguments


def _build(cls: Any, values: Any, name: str) -> Any:
    """A dataclass from a mapping whose keys are all known."""
    known = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(values, dict):
        raise ValueError(f"{name} is a mapping with the keys {known}, found {values!r}")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown keys {unknown}; {name} has the keys {known}")
    values = dict(values)
    if values.get("lora") is not None:
        values["lora"] = _build(LoRA, values["lora"], "lora")
    if "evaluate" in values:
        values["evaluate"] = _build(Evaluation, values["evaluate"], "evaluate")
    for name in {"templates", "extra_tasks"} & values.keys():
        if not isinstance(values[name] or [], list):
            raise ValueError(f"{name} is a list, found {values[name]!r}")
    if "templates" in values:
        values["templates"] = tuple(Template.from_json(item) for item in values["templates"] or ())
    if "extra_tasks" in values:
        values["extra_tasks"] = tuple(
            _build(ExtraTask, item, "an item of extra_tasks") for item in values["extra_tasks"] or ()
        )
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_text(text: str | dict[str, int] | None) -> None:
    if text is None or isinstance(text, str) or (isinstance(text, dict) and list(text) == ["pieces"]):
        return
    raise ValueError(f"text must be characters, {{pieces: N}} or a tokenizer's path or hub id, found {text!r}")


def _check_trainer(trainer: dict[str, Any]) -> None:
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    unknown, reserved = sorted(set(trainer) - known), sorted(set(_OURS) & set(trainer))
    if unknown:
        raise ValueError(f"trainer: unknown keys {unknown}; these are the fields of transformers.TrainingArguments")
    for f in dataclasses.fields(TrainingArguments):
        if type(f.default) in (int, float) and isinstance(trainer.get(f.name), str):
            raise ValueError(f"trainer.{f.name} is a number, found {trainer[f.name]!r}")
    if reserved:
        raise ValueError(f"trainer.{reserved[0]} is set by focallm: see the recipe's seed, and the run's folder")
