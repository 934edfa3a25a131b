"""Callbacks of the Trainer: what it prints, and in which order it reads rows."""

from typing import Any

from transformers import ProgressCallback, TrainerCallback

from ...data.batching import LengthGroupedSampler


class SetEpoch(TrainerCallback):
    """Tells the sampler the epoch, which accelerate does not do in a resumed run of several processes."""

    def __init__(self, order: LengthGroupedSampler) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch that begins."""
        self.order.set_epoch(int(state.epoch or 0))


class ProgressLines(ProgressCallback):
    """The progress bar of the Trainer, with lines of text above it instead of dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write a line, without the values that say how fast it goes, as the bar does."""
        if self.training_bar is None:
            return
        parts = []
        for name, value in (logs or {}).items():
            if name not in ("epoch", "total_flos") and not name.endswith(("_runtime", "_per_second")):
                parts.append(f"{name.replace('_', ' ')} {value:.4g}")
        if parts:
            self.training_bar.write(f"update {state.global_step}: {', '.join(parts)}")
