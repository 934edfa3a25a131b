"""Logs of a run: log.jsonl, an experiment tracker, and loss curves. T samples."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor

from ..files import write_whole
from ..focalcodec.mel import log_mel
from ..json_lines import append_json_line, read_json_lines
from .stages import StageOutput
from .trackers import Tracker

LOG = "log.jsonl"
_NUM_SAMPLES = 3  # number of recordings that are written to TensorBoard


class RunLogger:
    """Writes into the folder of a run, and to an experiment tracker.

    Only the main process writes. TensorBoard also gets audio and spectrograms.

    Args:
        folder: folder of the run.
        sampling_rate: rate of decoded audio in Hz.
        accelerator: made with `log_with` for the tracker.
        tracker: where metrics go besides `log.jsonl`.
        description: what other trackers than TensorBoard show of the run, such as its recipe.
    """

    def __init__(
        self,
        folder: Path,
        sampling_rate: int,
        accelerator: Accelerator,
        tracker: Tracker = "none",
        description: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.sampling_rate = sampling_rate
        self.accelerator = accelerator
        self.board: Any = None
        if tracker == "none":
            return
        # accelerate makes the name of the project the name of TensorBoard's folder.
        project = "tensorboard" if tracker == "tensorboard" else "focallm"
        # The names of the run and of its stage.
        options = {} if tracker == "tensorboard" else {tracker: {"name": "/".join(folder.absolute().parts[-2:])}}
        # TensorBoard would show the description as one more run for every start of this one.
        config = None if tracker == "tensorboard" else dict(description or {})
        accelerator.init_trackers(project, config, options)
        if tracker == "tensorboard" and accelerator.is_main_process:
            self.board = accelerator.get_tracker("tensorboard", unwrap=True)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write metrics to `log.jsonl` and to the tracker."""
        if not self.accelerator.is_main_process:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self.accelerator.log(values, step=step)
        append_json_line(self.folder / LOG, {"step": step, "time": round(time.time(), 1), **values})

    def write_samples(self, step: int, outputs: Sequence[StageOutput]) -> None:
        """Write audio and images of the first recordings to TensorBoard: the output above its target."""
        if self.board is None:
            return
        for i, output in enumerate(outputs[:_NUM_SAMPLES]):
            if output.decoded is not None and output.target_audio is not None:
                for name, wave in (("decoded", output.decoded), ("original", output.target_audio)):
                    self.board.add_audio(f"{i}/{name}", wave[0].clamp(-1, 1), step, self.sampling_rate)
                image = _image(self._spectrogram(output.decoded), self._spectrogram(output.target_audio))
                self.board.add_image(f"{i}/spectrogram", image, step, dataformats="HW")
            if output.features is not None and output.target_features is not None:
                image = _image(output.features[0], output.target_features[0])
                self.board.add_image(f"{i}/features", image, step, dataformats="HW")

    def close(self) -> None:
        """End the run of the tracker and draw the loss curves."""
        # `Accelerator.end_training` would also disconnect the processes, which go on with the next stage.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.accelerator.is_main_process:
            write_curves(self.folder)

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        """Return the log-mel spectrogram (frames, bands) of the first item of (B, T)."""
        return log_mel(waveform[:1], self.sampling_rate, 1024, self.sampling_rate // 50, 80)[0]


def write_curves(folder: Path) -> None:
    """Convert `log.jsonl` to `losses.csv` (all columns) and `losses.png` (the total loss)."""
    # A resumed run may repeat steps; their last entries count.
    entries = {entry["step"]: entry for _, entry in read_json_lines(folder / LOG, appended=True)}
    rows = [entries[step] for step in sorted(entries)]
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "losses.csv", table.getvalue().encode())

    figure = Figure(figsize=(6, 3.5), dpi=100)
    axis = figure.add_subplot(xlabel="step", ylabel="weighted sum of the losses")
    for name, label in (("loss", "training"), ("validation_loss", "validation")):
        steps = []
        values = []
        for row in rows:
            # Validation is logged less often than training.
            if name in row:
                steps.append(row["step"])
                values.append(row[name])
        axis.plot(steps, values, ".-", label=label)
    axis.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_whole(folder / "losses.png", image.getvalue())


def _image(output: Tensor, target: Tensor) -> np.ndarray:
    """Stack two spectrograms (frames, bands) to an image (H, frames) from 0 to 1, with the output at the top."""
    size = min(len(output), len(target))
    low = target.min()
    high = target.max()
    images = []
    for values in (output, target):
        scaled = ((values[:size] - low) / (high - low + 1e-9)).clamp(0, 1)
        images.append(scaled.T.flip(0).float().cpu().numpy())
    return np.concatenate(images)
