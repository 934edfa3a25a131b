"""The recipe of a speech LM: the contents of a YAML file, and the model and Trainer arguments made from them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from ...tokenizer import AudioTokenizer
from ...tokenizer.training.trackers import check_tracker
from ..embeddings import EmbeddingInit
from ..features import max_positions
from ..lora import LoRA
from ..model import SpeechLM
from ..templates import Template, control_names
from ..vocabulary import Vocabulary

# Fields of TrainingArguments that a recipe cannot set, because `training_arguments` does, and what to do instead.
RESERVED = {
    "output_dir": "name the folder of the run in the command",
    "seed": "set the seed of the recipe",
    "data_seed": "set the seed of the recipe",
    "remove_unused_columns": "the templates say which columns are read",
    "use_cache": "training never uses a cache, and the trained model always does",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
}
_FIXED_ORDER = "rows of similar length always share a batch"
_FIXED_METRICS = "the loss and the metrics of an evaluation are fixed"
_ROUNDS = "the model is saved after its evaluation, which would round its weights"
_NO_PUSH = "checkpoints lack the codec: push the folder `model` of the finished run"
# Fields that this training would pass over, or with which a run could not be continued or saved, and what to do
# instead. Their default values are accepted.
REFUSED = {
    "label_smoothing_factor": "the loss does not read it: set code_smoothing of the recipe",
    "label_names": "the loss reads the labels of the templates",
    "use_liger_kernel": "the loss is not that of the kernels",
    "liger_kernel_config": "the loss is not that of the kernels",
    "parallelism_config": "the loss needs whole rows: train with DDP or FSDP",
    "train_sampling_strategy": _FIXED_ORDER,
    "length_column_name": _FIXED_ORDER,
    "prediction_loss_only": _FIXED_METRICS,
    "batch_eval_metrics": _FIXED_METRICS,
    "include_for_metrics": _FIXED_METRICS,
    "eval_do_concat_batches": _FIXED_METRICS,
    "fp16_full_eval": _ROUNDS,
    "bf16_full_eval": _ROUNDS,
    "save_only_model": "a run cannot continue at such a checkpoint",
    "ignore_data_skip": "a run that continues would read the same rows again",
    "resume_from_checkpoint": "a run continues at the last checkpoint of its folder",
    "save_on_each_node": "all nodes share the folder of the run",
    "deepspeed": "the model could not be saved: train with DDP or FSDP",
    "local_rank": "accelerate launch sets it",
    "do_train": "focallm train always trains",
    "do_eval": "set eval_strategy",
    "do_predict": "run focallm evaluate with the trained model",
    "push_to_hub": _NO_PUSH,
    "hub_model_id": _NO_PUSH,
    "hub_token": _NO_PUSH,
    "hub_strategy": _NO_PUSH,
    "hub_always_push": _NO_PUSH,
    "hub_revision": _NO_PUSH,
}
_POSITIVE = {"num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"}


@dataclass(frozen=True)
class ExtraTask:
    """A further task that is trained together with the first one."""

    task: str
    store: str | None = None  # a token store, by default that of the first task; for the task text also a text file
    repeat: int = 1  # how often every example comes per epoch

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, found {self.repeat}")


@dataclass(frozen=True)
class Evaluation:
    """The samples that every evaluation generates, to listen to and to measure."""

    samples: int = 4  # number of validation rows; 0 for none
    asr: str | None = None  # folder of a Whisper model, for word error rates


@dataclass(frozen=True)
class LMRecipe:
    """The model, its data, and the fields of `transformers.TrainingArguments`. Read it with `load_config`."""

    base: str | None = None  # a causal LM to start from: a folder, a hub id or mini; without it:
    model: str | dict[str, Any] | None = None  # a name in `loading.SIZES`, or fields of LlamaConfig; "mini" by default
    # Units of text without a base: characters (the default), {pieces: N} to train N pieces on the transcripts, or an
    # existing tokenizer: a folder, hub id, tokenizer.json or sentencepiece .model.
    text: str | dict[str, int] | None = None
    templates: tuple[Template, ...] = ()  # tasks that the package does not have
    embeddings: EmbeddingInit = "mean"  # of new rows: the mean of the old ones, or (codec) the codec's code vectors
    lora: LoRA | None = None
    max_length: int = 2048  # of a row, in ids; longer examples are left out and counted
    packing: bool = True  # put several examples into a row; without it each row has one, padded
    prompt_dropout: float = 0.0  # share of examples whose input is emptied, for classifier-free guidance
    code_noise: float = 0.0  # share of input codes that are exchanged for others of the same example
    code_smoothing: float = 0.0  # share of a target's probability for the codes that differ from it in one bit
    extra_tasks: tuple[ExtraTask, ...] = ()
    validation_fraction: float = 0.02  # of the utterances; where speech was mixed, the held_out of the mix file decides
    seed: int = 0
    evaluate: Evaluation = field(default_factory=Evaluation)
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base and self.model:
            raise ValueError(f"base ({self.base}) and model ({self.model}) exclude each other: a base has a fixed size")
        if self.base and self.text:
            raise ValueError(f"base ({self.base}) and text ({self.text}) exclude each other: a base has its tokenizer")
        if self.lora and not self.base:
            raise ValueError("lora needs base: without trained weights there is nothing to adapt")
        if isinstance(self.text, dict) and list(self.text) != ["pieces"]:
            raise ValueError(f"text must be characters, {{pieces: N}} or a tokenizer, found {self.text!r}")
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, found {self.max_length}")
        for name in ("prompt_dropout", "code_noise", "code_smoothing"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, found {share}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, found {self.validation_fraction}")
        _check_trainer(self.trainer)


def _check_trainer(trainer: dict[str, Any]) -> None:
    """Raise a ValueError for keys and values that TrainingArguments would refuse much later."""
    known = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    unknown = sorted(set(trainer) - set(known))
    if unknown:
        raise ValueError(f"trainer: unknown keys {unknown}; the keys are the fields of transformers.TrainingArguments")
    for name, value in trainer.items():
        if name in RESERVED:
            raise ValueError(f"trainer.{name} is set by focallm: {RESERVED[name]}, and leave it out")
        known_field = known[name]
        default = known_field.default_factory() if callable(known_field.default_factory) else known_field.default
        if type(default) in (int, float) and isinstance(value, str):
            raise ValueError(f"trainer.{name} is a number, found {value!r}")
        # Without updates, fresh weights would be saved as a finished model.
        if name in _POSITIVE and isinstance(value, int | float) and not value > 0:
            raise ValueError(f"trainer.{name} must be above 0, found {value}")
        if name in REFUSED and value != default:
            raise ValueError(f"trainer.{name} has no effect here: {REFUSED[name]}, and leave it out")
    if trainer.get("max_steps") == 0:
        raise ValueError("trainer.max_steps must be above 0, found 0; leave it out to train for num_train_epochs")
    if trainer.get("max_steps", -1) > 0 and "num_train_epochs" in trainer:
        raise ValueError("trainer.max_steps and trainer.num_train_epochs exclude each other: leave one of them out")
    if trainer.get("include_num_input_tokens_seen") == "non_padding":
        raise ValueError("trainer.include_num_input_tokens_seen can only be all or no: batches have no attention mask")


def training_arguments(recipe: LMRecipe, run: Path, quiet: bool = False) -> TrainingArguments:
    """Return the arguments of the Trainer: the recipe's `trainer` over our defaults."""
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    defaults = {
        "bf16": has_bf16 and not recipe.trainer.get("fp16") and not recipe.trainer.get("use_cpu"),
        "report_to": ["tensorboard"],
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,  # if the weights of the last one diverge, there is another
        "logging_steps": 20,
        "logging_first_step": True,  # the first loss shows whether training starts where it should
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "disable_tqdm": quiet,
        "project": "focallm",
        "run_name": run.name,
    }
    for event in ("eval", "save"):
        # A number of steps without a strategy would be ignored.
        if f"{event}_steps" in recipe.trainer:
            defaults[f"{event}_strategy"] = "steps"
    reserved = {
        "output_dir": str(run),
        "seed": recipe.seed,
        "remove_unused_columns": False,
        # The Trainer writes this value into the saved configuration. Batches switch the cache off themselves.
        "use_cache": True,
        # Losses that are not finite end the run; they are not hidden.
        "logging_nan_inf_filter": False,
    }
    arguments = TrainingArguments(**{**defaults, **recipe.trainer, **reserved})
    for tracker in arguments.report_to or []:
        check_tracker(tracker)
    return arguments


def build_model(
    recipe: LMRecipe, audio_tokenizer: AudioTokenizer, texts: Sequence[str], feature_size: int | None = None
) -> SpeechLM:
    """Build the model of a recipe before training. The same recipe gives the same weights.

    Args:
        recipe: The recipe.
        audio_tokenizer: The codec.
        texts: Everything that a new vocabulary has to spell.
        feature_size: Width of the continuous features, if a task reads some.

    Raises:
        ValueError: `max_length` exceeds the positions of the model.
    """
    set_seed(recipe.seed)
    task_controls = control_names(recipe.templates)
    if recipe.base:
        lm = SpeechLM.from_base(recipe.base, audio_tokenizer, feature_size, recipe.embeddings, task_controls)
    else:
        vocabulary = _build_vocabulary(recipe.text, texts, audio_tokenizer.codebook_sizes, task_controls)
        lm = SpeechLM.from_config(recipe.model or "mini", audio_tokenizer, vocabulary, feature_size, recipe.embeddings)
    if recipe.max_length > max_positions(lm.model):
        raise ValueError(
            f"max_length ({recipe.max_length}) exceeds the model's {max_positions(lm.model)} positions: lower it, or "
            "give a model with a larger max_position_embeddings"
        )
    if recipe.lora:
        lm = lm.add_lora(**asdict(recipe.lora))
    return lm


def _build_vocabulary(
    text: str | dict[str, int] | None, texts: Sequence[str], codebook_sizes: Sequence[int], controls: Sequence[str]
) -> Vocabulary:
    """Build the vocabulary of a model without a base, from the recipe's `text`."""
    if isinstance(text, dict):
        return Vocabulary.train(texts, text["pieces"], codebook_sizes, controls)
    if text in (None, "characters"):
        return Vocabulary.characters(texts, codebook_sizes, controls)
    return Vocabulary.from_base(text, codebook_sizes, controls)
