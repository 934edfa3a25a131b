"""A probe learns. B batch, N frames, K codebooks, D width of features."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ....data.sampler import LengthGroupedSampler
from ....tokenizer.files import whole_file, write_whole
from ....tokenizer.training.schedule import NewBob
from .model import Probe
from .probe_config import ProbeConfig
from .targets import Target

WEIGHTS, CHECKPOINT, LOG = "probe.safetensors", "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Reader:
    """Rows -> batches of tensors on a device.

    Args:
        target: what the truth of a row becomes.
        num_codebooks: K.
        device: where to.
    """

    target: Target
    num_codebooks: int
    device: torch.device

    def __call__(self, rows: Dataset, places: Sequence[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """-> codes (B, N, K) or features (B, N, D), lengths (B,) and targets of the rows at these places"""
        items = [rows[int(place)] for place in places]
        inputs = [self._input(item["input"]) for item in items]
        lengths = torch.tensor([len(item) for item in inputs])
        targets = [self.target.encode(str(item["truth"])) for item in items]
        return pad_sequence(inputs, batch_first=True).to(self.device), lengths.to(self.device), targets

    def _input(self, value: np.ndarray) -> Tensor:
        if value.ndim == 2:
            return torch.from_numpy(value.astype(np.float32))
        return torch.from_numpy(value.astype(np.int64)).reshape(-1, self.num_codebooks)


def learn(
    probe: Probe, reader: Reader, splits: dict[str, Dataset], recipe: ProbeConfig, run: Path, quiet: bool
) -> list[dict[str, Any]]:
    """Train for the recipe's epochs, from the last one that is done; -> the log, a line per epoch.

    `run` then holds the weights of the epoch with the fewest errors on the validation split, and the probe has them.
    """
    probe.to(reader.device)
    optimizer = torch.optim.AdamW(
        probe.parameters(), recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay
    )
    schedule = NewBob(recipe.decay, recipe.patience)
    log = _resume(run, probe, optimizer, schedule)
    order = LengthGroupedSampler(splits["train"]["num_samples"], recipe.batch_size, recipe.seed)
    epochs = range(len(log), recipe.epochs)
    for epoch in tqdm(epochs, "epochs", recipe.epochs, initial=len(log), disable=quiet):
        # Order and dropout follow from the seed and the epoch, so a resumed run repeats them.
        torch.manual_seed(hash((recipe.seed, epoch)))
        order.set_epoch(epoch)
        start = perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule.factor
        loss = _epoch(probe, reader, splits["train"], [place % len(order) for place in order], optimizer, recipe)
        validation_loss, lines = judge(probe, reader, splits["validation"], recipe.batch_size)
        schedule.observe(validation_loss)
        log.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "validation_loss": validation_loss,
                "validation_rate": error_rate(lines),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": round(perf_counter() - start, 1),
            }
        )
        if best_epoch(log) == epoch + 1:  # written before the checkpoint: a kill in between repeats this epoch
            with whole_file(run / WEIGHTS) as temporary:
                save_file(probe.state_dict(), temporary)
        state = {"probe": probe.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        with whole_file(run / CHECKPOINT) as temporary:
            torch.save({**state, "log": log}, temporary)
        write_whole(run / LOG, "".join(json.dumps(line) + "\n" for line in log).encode())
    probe.load_state_dict(load_file(run / WEIGHTS))
    return log


def _epoch(
    probe: Probe,
    reader: Reader,
    rows: Dataset,
    order: list[int],
    optimizer: torch.optim.Optimizer,
    recipe: ProbeConfig,
) -> float:
    """Learn from all rows once, in this order; -> the mean loss of the updates"""
    probe.train()
    losses, numbers = [], rows.with_format("numpy")
    for places in _chunks(order, recipe.batch_size):
        inputs, lengths, targets = reader(numbers, places)
        loss = reader.target.loss(probe(inputs, lengths), lengths, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), recipe.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def judge(probe: Probe, reader: Reader, rows: Dataset, batch_size: int) -> tuple[float, list[dict[str, Any]]]:
    """-> the mean loss of the rows, and of each its id, truth, answer, errors and of how many, in their order"""
    probe.eval()
    losses, answers = np.zeros(len(rows)), [""] * len(rows)
    numbers = rows.with_format("numpy")
    for places in _chunks(np.argsort(rows["num_samples"], kind="stable").tolist(), batch_size):
        inputs, lengths, targets = reader(numbers, places)
        logits = probe(inputs, lengths)
        losses[places] = reader.target.loss(logits, lengths, targets).cpu()
        for place, answer in zip(places, reader.target.answers(logits, lengths), strict=True):
            answers[place] = answer
    lines = []
    for name, truth, answer in zip(rows["id"], rows["truth"], answers, strict=True):
        errors, total = reader.target.errors(truth, answer)
        lines.append({"id": name, "truth": truth, "answer": answer, "errors": errors, "total": total})
    return float(losses.mean()), lines


def error_rate(lines: list[dict[str, Any]]) -> float:
    """Of the lines of `judge`."""
    return sum(line["errors"] for line in lines) / sum(line["total"] for line in lines)


def best_epoch(log: list[dict[str, Any]]) -> int:
    """The first with the fewest errors on the validation split; of the like, that with the smaller loss."""
    return min(log, key=lambda line: (line["validation_rate"], line["validation_loss"]))["epoch"]


def _resume(run: Path, probe: Probe, optimizer: torch.optim.Optimizer, schedule: NewBob) -> list[dict[str, Any]]:
    """Restore what a run's checkpoint holds, where only tensors and plain values are unpickled; -> its log."""
    if not (run / CHECKPOINT).is_file():
        return []
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    probe.load_state_dict(state["probe"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["log"]


def _chunks(places: list[int], size: int) -> Iterator[list[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))
