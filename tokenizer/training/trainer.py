"""Train one stage of a codec: setup, training loop, checkpoints. An interrupted run resumes from its checkpoint."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..files import first_not_finite, whole_files
from ..focalcodec.modeling import FocalCodecModel
from ..runs import is_finished, write_finished
from .build import build_stage
from .checkpoint import load_checkpoint, load_discriminators, save_checkpoint, write_machine, write_recipe
from .config import StageConfig, result_folder
from .dataset import ClipDataset, open_datasets
from .discriminators import GAN
from .feature_cache import CachedDataset
from .logging import RunLogger
from .losses import weighted_sum
from .optimization import Schedule, WeightAverage
from .stages import CodecStage, Stage, TeacherStage, audio_rates
from .teacher import Teacher
from .trackers import Tracker, check_tracker
from .validation import EmbedFunction, TranscribeFunction, Validation

logger = logging.getLogger(__name__)

_LOG_EVERY = 50  # steps


def train_codec(
    config: StageConfig,
    paths: Sequence[Path],
    folder: Path,
    quiet: bool = False,
    texts: Sequence[str | None] | None = None,
    asr: TranscribeFunction | None = None,
    embed: EmbedFunction | None = None,
    report_to: Tracker = "tensorboard",
) -> FocalCodecModel | Teacher:
    """Train one stage on audio files. Saves its model in `folder/model`, next to logs and the checkpoint.

    Under `accelerate launch`, the processes share each batch, with the same result as one process.

    Args:
        config: config of the stage.
        paths: audio files. The last `config.validation_files` of them are used for evaluation only.
        folder: folder of the run. If it holds a run of the same recipe, that run is resumed, unless it is finished.
        quiet: whether to hide progress bars.
        texts: transcript of each file. Stage teacher uses the files that have one, and saves `folder/teacher`.
        asr: function that transcribes audio, to report how many words decoding changes (dWER).
        embed: function that computes speaker embeddings, to report the similarity of decoded voices.
        report_to: experiment tracker that gets the metrics.

    Returns:
        The trained model with the weights of the last step; the saved model, which has the averaged weights if any,
        if the run was finished before.

    Raises:
        ValueError: The folder holds a run of another recipe, there are too few files, or the training diverges.
        ImportError: The package of the tracker is missing.
    """
    check_tracker(report_to)
    has_gpu = torch.cuda.is_available()
    # On a CPU, accelerate connects several processes only if it is asked to use the CPU.
    use_cpu = not has_gpu and not torch.backends.mps.is_available()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="bf16" if config.bf16 and has_gpu else "no",
        log_with=None if report_to == "none" else report_to,
        project_dir=folder,
    )
    result = result_folder(folder, config)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(config, folder)
    if is_finished(folder, result):
        logger.info("%s is finished: nothing to train", folder)
        model_class = Teacher if config.stage == "teacher" else FocalCodecModel
        return model_class.from_pretrained(result)
    torch.manual_seed(config.seed)
    stage = build_stage(config)
    rates = audio_rates(stage)
    if accelerator.is_main_process:
        write_machine(folder, accelerator.device, accelerator.num_processes)
    train_dataset: ClipDataset | CachedDataset
    train_dataset, eval_dataset = open_datasets(
        config, paths, texts, rates, accelerator.process_index, accelerator.num_processes, progress=not quiet
    )
    if isinstance(stage, CodecStage) and stage.config.cache is not None:
        with accelerator.main_process_first():
            train_dataset = CachedDataset(
                train_dataset.recordings, stage.model, stage.config, rates,
                accelerator.process_index, accelerator.num_processes, progress=not quiet,
            )  # fmt: skip
    codebook_size = 0 if isinstance(stage, TeacherStage) else stage.model.config.codebook_size
    validation = Validation(eval_dataset, rates.output, codebook_size, asr, embed)
    run_logger = RunLogger(folder, rates.output, accelerator, report_to, {"stage": config.stage})
    trainer = Trainer(config, stage, accelerator, train_dataset, validation, run_logger)
    trainer.restore()
    trainer.train(quiet)
    model = stage.trained_model
    with trainer.eval_mode():
        if accelerator.is_main_process:
            with whole_files(result) as temporary:
                model.save_pretrained(temporary)
    # The plots come after the model, and the record comes last: what is not recorded is done again.
    run_logger.close()
    if accelerator.is_main_process:
        write_finished(folder, result)
    # The next stage may start from this model in all processes.
    accelerator.wait_for_everyone()
    return model


class Trainer:
    """Trains a stage: holds its optimizer and all other state that changes from step to step.

    Args:
        config: config of the stage.
        stage: module that computes the losses of a batch.
        accelerator: sets device and precision, and averages gradients over processes.
        train_dataset: item i is the batch of step i.
        validation: evaluates the stage.
        run_logger: writes metrics. Its folder also holds the checkpoint.
    """

    def __init__(
        self,
        config: StageConfig,
        stage: Stage,
        accelerator: Accelerator,
        train_dataset: ClipDataset | CachedDataset,
        validation: Validation,
        run_logger: RunLogger,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.train_dataset = train_dataset
        self.validation = validation
        self.run_logger = run_logger
        self.next_step = 0
        self.checkpoint_step = 0
        self.loss_weights = loss_weights(config)
        self.schedule = Schedule(config, train_dataset.steps_per_epoch)
        # Frozen parts are not optimized, not averaged, and not saved in a checkpoint.
        trained_model: nn.Module = stage.trained_model
        self.parameters: dict[str, nn.Parameter] = {}
        for name, parameter in trained_model.named_parameters():
            if parameter.requires_grad:
                self.parameters[name] = parameter
        optimizer = torch.optim.AdamW(
            self.parameters.values(), config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.stage, self.optimizer = accelerator.prepare(stage, optimizer)
        self.average = WeightAverage(self.parameters, config.ema) if config.ema else None
        self.gan = None
        if isinstance(stage, CodecStage) and stage.config.gan is not None:
            self.gan = GAN(stage.config.gan, config, accelerator)
            if stage.config.gan.start_from is not None:
                self.gan.load_state_dict(load_discriminators(Path(stage.config.gan.start_from)))

    def train(self, quiet: bool = False) -> None:
        """Train from the next step to the last one.

        Raises:
            ValueError: The training diverges.
        """
        config = self.config
        accelerator = self.accelerator
        steps = range(self.next_step, config.steps)
        batches = DataLoader(self.train_dataset, batch_size=None, sampler=steps, num_workers=config.workers)
        hide_bar = quiet or not accelerator.is_main_process
        bar = tqdm(batches, config.stage, config.steps, initial=self.next_step, disable=hide_bar)
        logger.info("%.2f h of audio, step %d of %d", self.train_dataset.seconds / 3600, self.next_step, config.steps)
        for step, batch in zip(steps, bar, strict=True):
            # Dropout and random crops depend only on the seed and the step, so that a resumed run repeats them.
            torch.manual_seed(hash((config.seed, step, accelerator.process_index)))
            learning_rate = self.schedule.rate(step)

            # Forward pass: all losses except those of discriminators.
            self.stage.train()
            output = self.stage(batch.to(accelerator.device))

            # Update the discriminators first, then let them score the output of the codec.
            discriminator_metrics = {}
            if self.gan is not None:
                real = output.target_audio
                generated = output.decoded
                if config.stage == "quantizer":
                    real = output.target_features
                    generated = output.features
                discriminator_loss = self.gan.discriminator_step(real, generated, learning_rate)
                discriminator_metrics["discriminator"] = discriminator_loss
                output.losses |= self.gan.generator_losses(real, generated)

            # Backward pass and update.
            loss = weighted_sum(output.losses, self.loss_weights)
            self.optimizer.zero_grad()
            accelerator.backward(loss)
            gradient_norm = accelerator.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)
            # Infinite gradients would make the weights NaN for ever. All processes have the same gradients.
            if not math.isfinite(gradient_norm):
                self._raise_diverged(f"the gradients of step {step + 1} are not finite")
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            if self.average is not None:
                self.average.update(step)

            # Evaluation, log, checkpoint.
            self.next_step = step + 1
            is_last = self.next_step == config.steps
            is_evaluation = is_last or self.next_step % config.evaluate_every == 0
            metrics: dict[str, Any] = {"loss": loss.detach()}
            for name, value in output.losses.items():
                metrics[name] = value.detach()
            metrics |= {**discriminator_metrics, "gradient_norm": gradient_norm, "learning_rate": learning_rate}
            if is_evaluation:
                metrics |= self.evaluate()
                if not math.isfinite(metrics["validation_loss"]):
                    self._raise_diverged(f"the validation loss of step {self.next_step} is not finite")
            if is_evaluation or self.next_step % _LOG_EVERY == 0:
                self.run_logger.write(self.next_step, metrics)
            if is_last or self.next_step % config.checkpoint_every == 0:
                if first_not_finite(self.parameters) is not None:
                    self._raise_diverged(f"the weights of step {self.next_step} are not finite")
                if accelerator.is_main_process:
                    save_checkpoint(self.run_logger.folder, self.state_dict())
                self.checkpoint_step = self.next_step
        accelerator.wait_for_everyone()

    def _raise_diverged(self, reason: str) -> NoReturn:
        kept = f"checkpoint.pt holds step {self.checkpoint_step}" if self.checkpoint_step else "there is no checkpoint"
        raise ValueError(
            f"the training of {self.run_logger.folder} diverged: {reason}. No model is saved; {kept}. Lower "
            f"learning_rate ({self.config.learning_rate:g}) or raise warmup_steps, and train in another folder"
        )

    def evaluate(self) -> dict[str, float]:
        """Evaluate the stage, and report its loss to the schedule."""
        with self.eval_mode() as stage:
            metrics, outputs = self.validation(stage, self.loss_weights, self.accelerator.device)
        self.schedule.observe(metrics["validation_loss"])
        self.run_logger.write_samples(self.next_step, outputs)
        return metrics

    @contextlib.contextmanager
    def eval_mode(self) -> Iterator[nn.Module]:
        """Put the stage in evaluation mode, with averaged weights if there are any, within this context. Yields it."""
        stage = self.accelerator.unwrap_model(self.stage)
        was_training = stage.training
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            stage.eval()
            yield stage
        stage.train(was_training)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without frozen weights."""
        return {
            "step": self.next_step,
            "weights": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "gan": self.gan.state_dict() if self.gan is not None else None,
        }

    def restore(self) -> None:
        """Resume from the checkpoint in the folder of the run, if there is one.

        Raises:
            ValueError: Its weights are not finite.
        """
        state = load_checkpoint(self.run_logger.folder)
        if state is None:
            return
        broken = first_not_finite(state["weights"])
        if broken is not None:
            raise ValueError(
                f"{self.run_logger.folder} holds a checkpoint of a training that diverged: {broken} is not finite. "
                "Train in another folder, with a lower learning_rate"
            )
        self.next_step = state["step"]
        self.checkpoint_step = self.next_step
        # Copied in place, because the optimizer and the average refer to these parameters.
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.gan is not None:
            self.gan.load_state_dict(state["gan"])


def loss_weights(config: StageConfig) -> dict[str, float]:
    """Return the weight of each loss that a stage can have."""
    if config.stage == "teacher":
        return {"ctc": 1.0}
    if config.stage == "position" or config.stage == "encoder":
        return {"mse": 1.0}
    if config.stage == "denoising":
        return {"l1": 1.0}
    weights = {}
    if config.stage == "quantizer" or config.stage == "joint":
        weights["mse"] = config.feature_weight
        if config.entropy is not None:
            weights["entropy_loss"] = config.entropy.weight
    if config.stage == "quantizer" and config.judge is not None:
        weights["judge"] = config.judge.weight
    if config.stage == "decoder" or config.stage == "joint":
        weights["mel"] = config.mel_weight
        weights["stft"] = config.stft_weight
    if config.teacher is not None:
        weights["teacher"] = config.teacher.hidden_weight
        weights["posterior"] = config.teacher.posterior_weight
    if config.gan is not None:
        weights["generator"] = config.gan.weight
        weights["matching"] = config.gan.matching_weight
    return weights
