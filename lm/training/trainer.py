"""Training a speech LM with the transformers Trainer. B rows, L length of a row, V ids."""

import copy
import inspect
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ...data.batching import LengthGroupedSampler, PackCollator
from ..features import language_model
from ..info import SpeechLMInfo
from ..model import SpeechLM
from .curve import write_losses
from .examples import Examples
from .isolation import check_isolation
from .loss_monitor import LossMonitor
from .recipe import LMRecipe, training_arguments
from .resuming import last_checkpoint, remember
from .samples import Samples, WordErrors
from .smoothing import smoothed_nats

logger = logging.getLogger(__name__)

CODEC = SpeechLMInfo.audio_tokenizer  # folder of a copy


def train(
    lm: SpeechLM,
    train_dataset: Examples,
    eval_dataset: Examples,
    recipe: LMRecipe,
    run: Path,
    word_errors: WordErrors | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """Train, and leave the model in `run/model` and the losses in `run/losses.csv` and `.png`.

    A run that was stopped continues at its last checkpoint. With LoRA, `run/model` has it merged, and `run/adapter`
    holds it alone.

    Args:
        lm: what to train; its weights are those of the end afterwards.
        train_dataset: examples to learn from.
        eval_dataset: examples for the loss that is reported as `eval_loss`, in nats per target id, and to listen to.
        recipe: the rest.
        run: folder of checkpoints, logs and samples.
        word_errors: what counts the wrong words of samples, if somebody can.
        quiet: no progress bar.

    Raises:
        ValueError: the folder holds a run that differs, or packing for a model whose examples would see each other.
    """
    arguments = training_arguments(recipe, run, quiet)
    remember(recipe, train_dataset, lm.audio_tokenizer, run)
    samples = Samples(lm, eval_dataset, recipe.evaluate.samples, run / "samples", word_errors)
    fresh = math.log(language_model(lm.model).config.vocab_size) if recipe.base is None else None
    monitor = LossMonitor(fresh, train_dataset.entropy)
    trainer = SpeechTrainer(lm, train_dataset, eval_dataset, arguments, samples, [monitor], recipe.code_smoothing)
    if recipe.lora and trainer.is_fsdp_enabled:
        raise ValueError(
            "lora and FSDP exclude each other here: the adapter is merged at the end, so train it with DDP"
        )
    if not trainer.is_fsdp_enabled:  # there the model is not where it will run yet
        with trainer.accelerator.autocast():
            check_isolation(lm, train_dataset, trainer.data_collator)
    if lm.info.audio_tokenizer == CODEC and trainer.is_world_process_zero():
        lm.audio_tokenizer.save_pretrained(run / CODEC)
    checkpoint = last_checkpoint(run)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = {**result.metrics, **(_last_evaluation(trainer) or trainer.evaluate())}
    if trainer.is_world_process_zero():
        write_losses(trainer.state.log_history, train_dataset.entropy, run)
    _save(lm, trainer, recipe, run)
    return metrics


class SpeechTrainer(Trainer):
    """The transformers Trainer with an order of rows that a resumed run repeats, exact means, and samples to hear.

    The loss is the negative log-likelihood of the target ids in nats (labels of -100 count nothing), summed over all
    that one update learns from, the rows of every accumulated batch and of every process, and divided by the number of
    targets therein: the Trainer counts them, and gives the count to the model as `num_items_in_batch`. So it does not
    matter how the rows of an update are divided among batches and processes.

    A checkpoint holds what `SpeechLM.from_pretrained` needs, but for the codec: that stands once, in the run's folder.
    """

    def __init__(
        self,
        lm: SpeechLM,
        train_dataset: Examples,
        eval_dataset: Examples,
        arguments: TrainingArguments,
        samples: Callable[[int], dict[str, float]],
        callbacks: list[TrainerCallback],
        code_smoothing: float = 0.0,
    ) -> None:
        self.lm, self.samples, self.code_smoothing = lm, samples, code_smoothing
        if code_smoothing and not lm.code_bits:
            raise ValueError("code_smoothing needs a codec whose codes are bits (FocalCodec): leave it out")
        self._takes_places = "logits_to_keep" in inspect.signature(language_model(lm.model).forward).parameters
        if code_smoothing and not self._takes_places:
            raise ValueError(
                f"code_smoothing needs a base whose forward takes logits_to_keep, as Llama's and Qwen's do; that of "
                f"{type(language_model(lm.model)).__name__} does not: leave it out"
            )
        self.order = LengthGroupedSampler(train_dataset.row_lengths, arguments.train_batch_size, arguments.seed)
        scores = _Scores(lm)
        attention = language_model(lm.model).config._attn_implementation or ""
        super().__init__(
            model=lm.model,
            args=arguments,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=PackCollator(lm.vocabulary.control("pad"), flat="flash" in attention),
            preprocess_logits_for_metrics=scores,
            compute_metrics=scores.means,
            callbacks=[*callbacks, _Epochs(self.order)],
        )
        if not self.model_accepts_loss_kwargs and arguments.gradient_accumulation_steps * arguments.world_size > 1:
            logger.warning(
                "%s takes no num_items_in_batch: the loss of an update is the mean of those of its batches, however "
                "many targets each has",
                type(language_model(lm.model)).__name__,
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return self.order

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the model's own, but without logits where no row of the batch has a target: a prefix needs none."""
        count = kwargs.get("num_items_in_batch")
        if not model.training or not self._takes_places or count is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        labels = inputs["labels"][:, 1:]
        places = (labels >= 0).any(dim=0).nonzero()[:, 0]
        others = {name: value for name, value in inputs.items() if name != "labels"}
        logits, labels = model(**others, logits_to_keep=places).logits, labels[:, places]
        learnt = labels >= 0
        codes, bits = self.lm.vocabulary.audio_range, self.lm.code_bits
        nats = smoothed_nats(logits[learnt], labels[learnt], codes, bits, self.code_smoothing).sum()
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return nats * processes / count  # the Trainer takes the mean over processes

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the Trainer's, but with the mean over target ids: the Trainer takes it over batches."""
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        output.metrics["eval_loss"] = output.metrics.pop("eval_nats")
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the validation set, then write samples and measure those."""
        metrics = super().evaluate(*args, **kwargs)
        if self.is_fsdp_enabled:  # no process holds the whole model: listen to the saved one (focallm evaluate)
            return metrics
        heard = [self.samples(self.state.global_step) if self.is_world_process_zero() else {}]
        broadcast_object_list(heard)  # every process chooses the best model
        if heard[0]:
            self.log(heard[0])
        return metrics | heard[0]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write what a checkpoint consists of, and whatever else it takes to speak."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        assert output_dir is not None  # a checkpoint's; the model of the end is written by the function `_save`
        folder, lm = Path(output_dir), copy.copy(self.lm)
        if lm.info.audio_tokenizer == CODEC:
            lm.info = replace(lm.info, audio_tokenizer=f"../{CODEC}")
        if isinstance(lm.model, PeftModel):
            lm.save_adapter(folder)
        else:
            lm.processor().save_pretrained(folder)
            lm.save_info(folder)


class _Epochs(TrainerCallback):
    """Tells the sampler the epoch; accelerate's own way to it is lost in a resumed run of several processes."""

    def __init__(self, order: LengthGroupedSampler) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.order.set_epoch(int(state.epoch or 0))


class _Scores:
    """Logits (B, L, V) and labels (B, L) -> (B, 5) sums: nats, targets, right codes, target codes, right bits."""

    def __init__(self, lm: SpeechLM) -> None:
        self.audio = lm.vocabulary.audio_range
        self.bits = lm.code_bits

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        mask = labels[:, 1:] >= 0
        labels, logits = labels[:, 1:][mask], logits[:, :-1][mask].float()  # (M,), (M, V)
        nats = F.cross_entropy(logits, labels, reduction="none")
        heard = (labels >= self.audio.start) & (labels < self.audio.stop)
        differing = (logits[:, self.audio.start : self.audio.stop].argmax(-1) ^ (labels - self.audio.start)) * heard
        wrong_bits = sum(((differing >> bit) & 1 for bit in range(self.bits)), torch.zeros_like(labels))
        right_bits = heard * (self.bits - wrong_bits)
        columns = torch.stack([nats, torch.ones_like(nats), heard & (differing == 0), heard, right_bits], dim=1)
        return columns.new_zeros(len(mask), 5).index_add_(0, torch.nonzero(mask)[:, 0], columns)

    def means(self, prediction: EvalPrediction) -> dict[str, float]:
        """Sums (rows, 5) -> means over all targets, and over those that are codes"""
        nats, targets, right, codes, bits = np.asarray(prediction.predictions, np.float64).sum(0)
        found = {"nats": nats / targets, "perplexity": math.exp(min(nats / targets, 99.0))}
        if codes:
            found["code_accuracy"] = right / codes
        if codes and self.bits:
            found["bit_accuracy"] = bits / codes / self.bits
        return found


def _last_evaluation(trainer: Trainer) -> dict[str, float]:
    """What was measured on the very weights that the model has now; empty if nothing was."""
    entries = [entry for entry in trainer.state.log_history if entry["step"] == trainer.state.global_step]
    found = {name: value for entry in entries for name, value in entry.items() if name.startswith("eval_")}
    return {} if trainer.args.load_best_model_at_end else found


def _save(lm: SpeechLM, trainer: SpeechTrainer, recipe: LMRecipe, run: Path) -> None:
    """Write `run/model`; under FSDP all processes have to take part."""
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    if recipe.lora:
        lm.save_adapter(run / "adapter")
        lm.merge()
    lm.save_pretrained(run / "model", weights)
