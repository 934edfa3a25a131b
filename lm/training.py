"""Training a speech LM with the transformers Trainer, and saying beforehand what it is about to learn."""

import dataclasses
import logging
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..data.collate import PadCollator
from ..data.sampler import LengthGroupedSampler
from .model import SpeechLM
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LMRecipe:
    """What to train: the model's size, and the fields of `transformers.TrainingArguments`."""

    model: str | dict[str, Any] = "mini"  # a name in `SIZES`, or LlamaConfig fields
    max_length: int = 2048  # ids; longer examples are left out and counted
    validation_fraction: float = 0.02
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reserved = sorted({"output_dir", "seed", "data_seed"} & set(self.trainer))
        if reserved:
            raise ValueError(f"trainer.{reserved[0]} is set by focallm: use --run and the recipe's seed")


def read_recipe(path: Path | str) -> LMRecipe:
    """Read a YAML recipe.

    Raises:
        ValueError: an unknown key, named with the known ones.
    """
    values = yaml.safe_load(Path(path).read_text()) or {}
    known = [f.name for f in dataclasses.fields(LMRecipe)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{path}: unknown keys {unknown}; an LM recipe has the keys {known}")
    return LMRecipe(**values)


class SpeechTrainer(Trainer):
    """The transformers Trainer with an order of examples that a resumed run repeats."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        examples = train_dataset or self.train_dataset
        assert isinstance(examples, Dataset)
        lengths = [len(ids) for ids in examples["input_ids"]]
        return LengthGroupedSampler(lengths, self.args.train_batch_size, self.args.seed)


def train(
    lm: SpeechLM, examples: Dataset, validation: Dataset, recipe: LMRecipe, run: Path, quiet: bool = False
) -> dict:
    """Train on rows of `input_ids` and `labels`; a run that was stopped continues at its last checkpoint.

    The model is left in `run/model`. -> the Trainer's final metrics.
    """
    arguments = TrainingArguments(
        output_dir=str(run),
        seed=recipe.seed,
        disable_tqdm=quiet,
        **{
            "report_to": ["tensorboard"],
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "save_total_limit": 1,
            "logging_steps": 20,
            "dataloader_pin_memory": torch.cuda.is_available(),
            **recipe.trainer,
        },
    )
    trainer = SpeechTrainer(
        model=lm.model,
        args=arguments,
        train_dataset=examples,
        eval_dataset=validation,
        data_collator=PadCollator(lm.vocabulary.control("pad")),
    )
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(run)) if run.is_dir() else None)
    metrics = {**result.metrics, **trainer.evaluate()}
    lm.save_pretrained(run / "model")
    return metrics


def fits(example: dict[str, list[int]], max_length: int) -> bool:
    """Whether an example can be trained on whole."""
    return len(example["input_ids"]) <= max_length


def panel(lm: SpeechLM, examples: Dataset, dropped: int, entropy: float) -> str:
    """What is about to be learnt, for a reader: one example with its labels, lengths, parameters, expected first loss.

    Args:
        dropped: examples left out because they are too long.
        entropy: unigram entropy of the corpus' codes, in nats.
    """
    lengths = [len(ids) for ids in examples["input_ids"]]
    size = lm.vocabulary.audio_vocab_size
    parameters = lm.model.num_parameters()
    rows = sum(p.numel() for p in lm.model.get_input_embeddings().parameters())
    example = random.Random(0).randrange(len(examples))
    return "\n".join(
        [
            f"example        {render(lm.vocabulary, examples[example])}",
            f"examples       {len(lengths)}, {sum(lengths)} ids, longest {max(lengths)}; {dropped} too long, left out",
            f"parameters     {parameters / 1e6:.2f} M: {rows / 1e6:.2f} M embedding rows, "
            f"{(parameters - rows) / 1e6:.2f} M body",
            f"expected loss  {math.log(size):.2f} nats per audio id at the start (ln {size}), then below {entropy:.2f} "
            "(what knowing only the frequencies of the codes gives)",
        ]
    )


def render(vocabulary: Vocabulary, example: dict[str, list[int]]) -> str:
    """An example as text: audio spans collapsed to [n audio], and everything that the loss sees in {braces}."""
    parts: list[tuple[bool, bool, list[int]]] = []  # learnt, audio, ids
    audio = range(vocabulary.audio_offset, vocabulary.audio_offset + vocabulary.audio_vocab_size)
    for i, label in zip(example["input_ids"], example["labels"], strict=True):
        key = (label >= 0, i in audio)
        if not parts or parts[-1][:2] != key:
            parts.append((*key, []))
        parts[-1][2].append(i)
    texts = [f"[{len(ids)} audio]" if is_audio else str(vocabulary.tokenizer.decode(ids)) for _, is_audio, ids in parts]
    return "".join(f"{{{text}}}" if learnt else text for (learnt, _, _), text in zip(parts, texts, strict=True))
