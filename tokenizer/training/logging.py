"""What a run leaves to be read: a log, TensorBoard with sounds and spectrograms, and curves. T samples."""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..files import write_whole
from ..focalcodec.mel import log_mel
from .stages import Outcome

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    raise ImportError("codec training needs tensorboard: pip install 'focallm[train]'") from None

_HEARD = 3  # recordings that are written to TensorBoard


class Record:
    """Writes into a run's folder; with `silent` (another process writes) it does nothing."""

    def __init__(self, folder: Path, sampling_rate: int, silent: bool = False) -> None:
        self.folder, self.sampling_rate = folder, sampling_rate
        self.board = None if silent else SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line of `log.jsonl`, and a point of every curve in TensorBoard."""
        if self.board is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")

    def show(self, step: int, outcomes: Sequence[Outcome]) -> None:
        """Sounds and pictures of the first recordings: what came out, over what should have."""
        if self.board is None:
            return
        for i, outcome in enumerate(outcomes[:_HEARD]):
            if outcome.generated is not None and outcome.real is not None:
                for name, wave in (("decoded", outcome.generated), ("original", outcome.real)):
                    self.board.add_audio(f"{i}/{name}", wave[0].clamp(-1, 1), step, self.sampling_rate)
                hop = self.sampling_rate // 50
                pair = [log_mel(w[:1], self.sampling_rate, 1024, hop, 80)[0] for w in (outcome.generated, outcome.real)]
                self.board.add_image(f"{i}/spectrogram", _picture(*pair), step, dataformats="HW")
            if outcome.features is not None and outcome.target is not None:
                picture = _picture(outcome.features[0], outcome.target[0])
                self.board.add_image(f"{i}/features", picture, step, dataformats="HW")

    def close(self) -> None:
        """Draw the curves."""
        if self.board is not None:
            self.board.close()
            write_curves(self.folder)


def write_curves(folder: Path) -> None:
    """`losses.csv` (all that was logged) and `losses.png` (the sum) from `log.jsonl`.

    Of steps that a resumed run repeated, the last counts.
    """
    entries = {entry["step"]: entry for entry in map(json.loads, (folder / "log.jsonl").open())}
    rows = [entries[step] for step in sorted(entries)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "losses.csv", table.getvalue().encode())

    figure = Figure(figsize=(6, 3.5), dpi=100)
    axis = figure.add_subplot(xlabel="update", ylabel="weighted sum of the losses")
    for name, label in (("loss", "training"), ("validation_loss", "validation")):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot([x for x, _ in points], [y for _, y in points], ".-", label=label)
    axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(folder / "losses.png", picture.getvalue())


def _picture(found: Tensor, wanted: Tensor) -> np.ndarray:
    """Two (T, bands), low bands at the bottom, one over the other: (H, T) in 0 ... 1."""
    size = min(len(found), len(wanted))
    low, high = wanted.min(), wanted.max()
    pair = [((x[:size] - low) / (high - low + 1e-9)).clamp(0, 1).T.flip(0) for x in (found, wanted)]
    return np.concatenate([x.float().cpu().numpy() for x in pair])
