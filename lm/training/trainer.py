"""Train a speech LM with the Trainer of transformers. Shapes: B rows, L length of a row, M targets, V ids."""

import copy
import inspect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ...data.batching import LengthGroupedSampler, PackCollator
from ...tokenizer.files import first_not_finite
from ...tokenizer.runs import locked, write_finished
from ..features import language_model
from ..info import SpeechLMInfo
from ..loading import write_info
from ..model import SpeechLM
from .callbacks import ProgressLines, SetEpoch
from .dataset import ExampleDataset
from .loss import EvaluationMetrics, LossMonitor, target_nats
from .preview import preview
from .recipe import LMRecipe, training_arguments
from .run_folder import describe_run, last_checkpoint, start_run, was_finished, write_losses
from .samples import CountWordErrors, SampleWriter

logger = logging.getLogger(__name__)

CODEC_FOLDER = SpeechLMInfo.audio_tokenizer  # name of the codec's copy in the folder of a run
# How much the logits of isolated examples may differ, as a share of their standard deviation. Measured: 0 for models
# that isolate the examples of a row, and 5e-4 to 2 for others.
_ISOLATION_TOLERANCE = 1e-4


def train(
    lm: SpeechLM,
    train_dataset: ExampleDataset,
    eval_dataset: ExampleDataset,
    recipe: LMRecipe,
    run: Path,
    count_word_errors: CountWordErrors | None = None,
    quiet: bool = False,
) -> dict[str, float] | None:
    """Show a preview, train, and write the model to `run/model` and the losses to `run/losses.csv` and `.png`.

    An interrupted run continues at its last checkpoint, and a finished one stays as it is. With LoRA, `run/model` has
    the adapter merged, and `run/adapter` holds it alone.

    Args:
        lm: The model, which is trained in place.
        train_dataset: Examples to train on.
        eval_dataset: Examples for `eval_loss`, in nats per target id, and for samples.
        recipe: Everything else.
        run: Folder of checkpoints, logs and samples, for one process at a time (or for those that train together).
        count_word_errors: Counts the wrong words of samples, if there is an ASR model.
        quiet: Show no preview and no progress bar.

    Returns:
        Metrics of the training and of the last evaluation, by the names under which the Trainer logs them. None if the
        run was finished before, so that nothing was done.

    Raises:
        OSError: Another process trains in this folder.
        ValueError: The folder holds a different run, packing is on for a model that does not isolate examples, there is
            no whole batch, or the loss or the weights become infinite or NaN.
    """
    description = describe_run(recipe, train_dataset, lm.audio_tokenizer)
    if was_finished(run, description):
        return None
    with locked(run):
        checkpoint = start_run(run, description)
        return _train(lm, train_dataset, eval_dataset, recipe, run, checkpoint, count_word_errors, quiet)


def _train(
    lm: SpeechLM,
    train_dataset: ExampleDataset,
    eval_dataset: ExampleDataset,
    recipe: LMRecipe,
    run: Path,
    checkpoint: Path | None,
    count_word_errors: CountWordErrors | None,
    quiet: bool,
) -> dict[str, float]:
    """Train from a checkpoint, or from the beginning."""
    arguments = training_arguments(recipe, run, quiet)
    samples = SampleWriter(lm, eval_dataset, recipe.evaluate.samples, run / "samples", count_word_errors)
    # A new model guesses among all ids.
    initial_loss = math.log(language_model(lm.model).config.vocab_size) if recipe.base is None else None
    monitor = LossMonitor(initial_loss, train_dataset.unigram_entropy)
    trainer = SpeechTrainer(lm, train_dataset, eval_dataset, arguments, samples, [monitor], recipe.code_smoothing)
    if not len(trainer.get_train_dataloader()):
        raise ValueError(
            f"{len(train_dataset)} rows are less than a batch of {arguments.train_batch_size} for each of "
            f"{arguments.world_size} processes, and trainer.dataloader_drop_last drops such a batch: lower "
            "trainer.per_device_train_batch_size, or set dataloader_drop_last: false"
        )
    if recipe.lora and trainer.is_fsdp_enabled:
        raise ValueError("lora does not work with FSDP, because the adapter is merged at the end: train with DDP")
    # Under FSDP the model is not yet on its devices.
    if not trainer.is_fsdp_enabled:
        with trainer.accelerator.autocast():
            check_isolation(lm, train_dataset, trainer.data_collator)
    if trainer.is_world_process_zero():
        if not quiet:
            print(preview(lm, train_dataset, recipe.base is None, run / "preview"))
        if lm.info.audio_tokenizer == CODEC_FOLDER:
            lm.audio_tokenizer.save_pretrained(run / CODEC_FOLDER)

    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        raise ValueError(
            f"training was stopped after update {trainer.state.global_step} of {trainer.state.max_steps}: the same "
            "command continues it"
        )

    if not trainer.is_fsdp_enabled:
        trainer.check_weights(lm.model.state_dict())
    metrics = {**result.metrics, **(trainer.last_evaluation() or trainer.evaluate())}
    # The model comes before the plots, and the record comes last: what is not recorded is done again.
    _save_model(lm, trainer, recipe, run)
    if trainer.is_world_process_zero():
        write_losses(trainer.state.log_history, train_dataset.unigram_entropy, run)
        write_finished(run, run / "model")
    return metrics


class SpeechTrainer(Trainer):
    """The Trainer of transformers with our loss, a reproducible order of rows, and generated samples.

    The loss of an update is the sum of `target_nats` over all its targets, in all accumulated batches and on all
    processes, divided by their number, which the Trainer counts (`num_items_in_batch`). So it does not matter how the
    rows of an update are divided among batches and processes.

    A checkpoint holds what `SpeechLM.from_pretrained` needs except the codec, of which the run's folder has one copy.

    Args:
        lm: The model.
        train_dataset: Examples to train on.
        eval_dataset: Examples to evaluate on.
        arguments: Arguments of the Trainer.
        samples: Called with the update at each evaluation; returns further metrics.
        callbacks: Callbacks of the Trainer.
        code_smoothing: See `target_nats`.

    Raises:
        ValueError: Code smoothing does not work with the codec or the model.
    """

    def __init__(
        self,
        lm: SpeechLM,
        train_dataset: ExampleDataset,
        eval_dataset: ExampleDataset,
        arguments: TrainingArguments,
        samples: Callable[[int], dict[str, float]],
        callbacks: list[TrainerCallback],
        code_smoothing: float = 0.0,
    ) -> None:
        self.lm = lm
        self.samples = samples
        self.code_smoothing = code_smoothing
        causal_lm = language_model(lm.model)
        self._accepts_logits_to_keep = "logits_to_keep" in inspect.signature(causal_lm.forward).parameters
        if code_smoothing and not lm.code_bits:
            raise ValueError("code_smoothing needs a codec whose codes are bits (FocalCodec): leave it out")
        if code_smoothing and not self._accepts_logits_to_keep:
            raise ValueError(
                f"code_smoothing needs a base whose forward takes logits_to_keep, as Llama's and Qwen's do; that of "
                f"{type(causal_lm).__name__} does not: leave it out"
            )
        self.order = LengthGroupedSampler(train_dataset.row_lengths, arguments.train_batch_size, arguments.seed)
        uses_flash_attention = "flash" in (causal_lm.config._attn_implementation or "")
        metrics = EvaluationMetrics(lm)
        super().__init__(
            model=lm.model,
            args=arguments,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=PackCollator(lm.vocabulary.control("pad"), flat=uses_flash_attention),
            preprocess_logits_for_metrics=metrics,
            compute_metrics=metrics.compute,
            callbacks=[*callbacks, SetEpoch(self.order)],
        )
        # With disable_tqdm, the Trainer prints dictionaries instead of a bar.
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback):
            self.add_callback(ProgressLines())
        num_batches = arguments.gradient_accumulation_steps * arguments.world_size
        if not self.model_accepts_loss_kwargs and num_batches > 1:
            logger.warning(
                "%s takes no num_items_in_batch: the loss of an update is the mean of those of its batches, however "
                "many targets each has",
                type(causal_lm).__name__,
            )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Evaluate on all rows: only training drops the last ones."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return self.order

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train for an epoch, unless no update is left: the Trainer would make one before it checks."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss of a batch and its gradients, and stop if it is not finite, before the weights change."""
        loss = super().training_step(*args, **kwargs)
        if not loss.isfinite():
            raise self._divergence(f"the loss of update {self.state.global_step + 1} is {loss.item()}")
        return loss

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Raise a ValueError for weights that are not finite in half precision, in which models are released."""
        for name, weight in weights.items():
            if first_not_finite({name: weight.half()}):
                raise self._divergence(f"{name} is infinite or NaN after update {self.state.global_step}")

    def _divergence(self, symptom: str) -> ValueError:
        """Return an error that explains a loss or weights that are not finite."""
        assert self.args.output_dir is not None
        # The weights of this moment are of no use, nor is a checkpoint of them.
        checkpoint = last_checkpoint(Path(self.args.output_dir), before=self.state.global_step)
        if self.state.global_step:
            cause = "training diverged: lower trainer.learning_rate, or raise warmup_steps,"
        else:
            cause = "the base or the features of the data are damaged: make them again,"
        remains = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no good checkpoint yet"
        return ValueError(f"{symptom}, so {cause} and train into another folder; {remains}")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch in nats per target id, in training and in evaluation.

        Args:
            model: The model, perhaps wrapped for several devices.
            inputs: From `PackCollator`.
            return_outputs: Return the output of the model, too.
            num_items_in_batch: Number of targets of the whole update; without it, those of the batch are counted.
        """
        forward_inputs = dict(inputs)
        # The logits at a position predict the id at the next one.
        labels = forward_inputs.pop("labels")[:, 1:]
        if model.training and self._accepts_logits_to_keep:
            # Compute no logits at positions where no row has a target: most of them are input.
            positions = (labels >= 0).any(dim=0).nonzero()[:, 0]
            labels = labels[:, positions]
            outputs = model(**forward_inputs, logits_to_keep=positions)
            logits = outputs.logits
        else:
            outputs = model(**forward_inputs)
            logits = outputs.logits[:, :-1]

        is_target = labels >= 0
        code_smoothing = self.code_smoothing if model.training else 0.0
        nats = target_nats(
            logits[is_target], labels[is_target], self.lm.vocabulary.audio_range, self.lm.code_bits, code_smoothing
        )
        if num_items_in_batch is None:
            loss = nats.mean()
        else:
            # The Trainer averages over processes, but the count includes the targets of all of them.
            averaged = self.args.average_tokens_across_devices
            loss = nats.sum() * (self.accelerator.num_processes if averaged else 1) / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as the Trainer does, but report the mean over target ids: the Trainer takes it over batches."""
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        output.metrics["eval_loss"] = output.metrics.pop("eval_nats")
        if not math.isfinite(output.metrics["eval_loss"]):
            loss = output.metrics["eval_loss"]
            raise self._divergence(f"the validation loss after update {self.state.global_step} is {loss}")
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the validation set, then write samples and measure them."""
        metrics = super().evaluate(*args, **kwargs)
        # Under FSDP no process holds the whole model. Use `focallm evaluate` with the saved one.
        if self.is_fsdp_enabled:
            return metrics
        sample_metrics = [self.samples(self.state.global_step) if self.is_world_process_zero() else {}]
        # All processes need the metrics, because each of them chooses the best model.
        broadcast_object_list(sample_metrics)
        if sample_metrics[0]:
            self.log(sample_metrics[0])
        return metrics | sample_metrics[0]

    def last_evaluation(self) -> dict[str, float]:
        """Return what was measured on the current weights, or nothing."""
        # The best model is loaded at the end, perhaps from an earlier update.
        if self.args.load_best_model_at_end:
            return {}
        metrics: dict[str, float] = {}
        for entry in self.state.log_history:
            if entry["step"] == self.state.global_step:
                metrics |= {name: value for name, value in entry.items() if name.startswith("eval_")}
        return metrics

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Say which weights a checkpoint lacks; a tied head is the embedding, which it holds."""
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint, and what else `SpeechLM.from_pretrained` needs."""
        self.check_weights(self.lm.model.state_dict() if state_dict is None else state_dict)
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        assert output_dir is not None  # `_save_model` writes the model of the end
        folder = Path(output_dir)
        lm = copy.copy(self.lm)
        if lm.info.audio_tokenizer == CODEC_FOLDER:
            lm.info = replace(lm.info, audio_tokenizer=f"../{CODEC_FOLDER}")
        if isinstance(lm.model, PeftModel):
            lm.save_adapter(folder)
        else:
            lm.save_processor(folder)
            write_info(folder, lm.info, lm.lexicon)


def check_isolation(lm: SpeechLM, dataset: ExampleDataset, collate: Callable[[Any], dict[str, Any]]) -> None:
    """Check that the examples of a packed row do not see each other, which depends on the model.

    The logits of an example must be the same behind two different examples.

    Raises:
        ValueError: They differ.
    """
    row = next((row for row in dataset.rows if len(row) > 1), None)
    if row is None:
        return
    first = dataset.example(row[0])
    second = dataset.example(row[1])
    # Another first example of the same length. Its placeholders of features have to stay.
    feature_id = lm.vocabulary.control("feature")
    other_ids = [i if i == feature_id else lm.vocabulary.audio_offset for i in first["input_ids"]]
    other = {**first, "input_ids": other_ids}
    logits = _logits(lm, collate([[first, second]]))[len(other_ids) :]
    other_logits = _logits(lm, collate([[other, second]]))[len(other_ids) :]
    if (logits - other_logits).abs().max() > _ISOLATION_TOLERANCE * logits.std():
        raise ValueError(
            f"{type(lm.model).__name__} lets the examples of a row see each other (it does not read position_ids as "
            "boundaries): set packing: false"
        )


@torch.no_grad()
def _logits(lm: SpeechLM, batch: dict[str, Any]) -> Tensor:
    """Return logits (L, V) of a batch of one row, without labels and dropout."""
    training = lm.model.training
    lm.model.eval()
    inputs: dict[str, Any] = {"labels": None}
    for key, value in batch.items():
        if key != "labels":
            inputs[key] = value.to(lm.device) if isinstance(value, Tensor) else value
    logits = lm.model(**inputs).logits[0].float()
    lm.model.train(training)
    return logits


def _save_model(lm: SpeechLM, trainer: SpeechTrainer, recipe: LMRecipe, run: Path) -> None:
    """Write `run/model`. Under FSDP all processes have to take part in gathering the weights."""
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    if recipe.lora:
        lm.save_adapter(run / "adapter")
        lm.merge()
    lm.save_pretrained(run / "model", weights)
