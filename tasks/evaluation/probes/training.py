"""The network of a probe and its training: a small BiLSTM on the tokens or features of a frozen codec.

B batch, N frames, K codebooks, V codes of a codebook, D feature width, C classes.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ....data.batching import LengthGroupedSampler
from ....tokenizer.files import whole_files, write_whole
from ....tokenizer.focalcodec.layers import length_mask
from ....tokenizer.training.checkpoint import load_checkpoint, save_checkpoint
from ....tokenizer.training.optimization import NewBob
from .data import Target
from .probe_config import ProbeConfig

# Files in the folder of a run.
WEIGHTS = "probe.safetensors"
CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


class Probe(nn.Module):
    """A bidirectional LSTM on codes (B, N, K) or features (B, N, D).

    It returns logits (B, N, C), one prediction per frame, or (B, C), one per item. For one prediction per item, the
    mean and the standard deviation of its frames are concatenated. Padding does not change the results.

    Args:
        config: sizes.
        num_classes: C.
        is_pooled: return one prediction per item.
        code_vectors: for each codebook a table (V, D) to initialize the embeddings with; None for features.
        feature_dim: D of the features, if there are no tables.
    """

    def __init__(
        self,
        config: ProbeConfig,
        num_classes: int,
        is_pooled: bool,
        code_vectors: list[Tensor] | None,
        feature_dim: int = 0,
    ) -> None:
        super().__init__()
        self.is_pooled = is_pooled
        self.embedding: nn.Module = nn.Identity()
        if code_vectors:
            self.embedding = CodeEmbedding(code_vectors)
            feature_dim = code_vectors[0].shape[1]
        self.lstm = BiLSTM(feature_dim, config.hidden_size, config.num_layers, config.dropout)
        # Two directions; pooling doubles the width again.
        width = 4 * config.hidden_size if is_pooled else 2 * config.hidden_size
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.lstm(self.embedding(inputs), lengths)
        if self.is_pooled:
            hidden = pooled_statistics(hidden, lengths)
        return self.head(hidden)


class BiLSTM(nn.Module):
    """A bidirectional LSTM on padded frames (B, N, D) -> (B, N, 2 * hidden); padding does not reach the frames.

    `nn.LSTM` does the same with packed sequences, but their gradient takes five times as long on a CPU.

    Args:
        input_size: D.
        hidden_size: width of each direction.
        num_layers: number of layers.
        dropout: between the layers.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.forward_layers = _lstm_layers(input_size, hidden_size, num_layers)
        self.backward_layers = _lstm_layers(input_size, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        # Reverses the frames of each item and leaves its padding where it is. It is its own inverse.
        positions = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
        last = lengths[:, None] - 1
        reversal = torch.where(positions <= last, last - positions, positions)[..., None]  # (B, N, 1)

        for i, forward_layer in enumerate(self.forward_layers):
            if i > 0:
                frames = self.dropout(frames)
            reversed_frames = frames.gather(1, reversal.expand_as(frames))
            left_to_right, _ = forward_layer(frames)
            right_to_left, _ = self.backward_layers[i](reversed_frames)
            right_to_left = right_to_left.gather(1, reversal.expand_as(right_to_left))
            frames = torch.cat([left_to_right, right_to_left], dim=-1)
        return frames


def _lstm_layers(input_size: int, hidden_size: int, num_layers: int) -> nn.ModuleList:
    """Return the layers of one direction."""
    layers = nn.ModuleList()
    for i in range(num_layers):
        # Later layers read both directions of the layer before.
        width = input_size if i == 0 else 2 * hidden_size
        layers.append(nn.LSTM(width, hidden_size, batch_first=True))
    return layers


class CodeEmbedding(nn.Module):
    """Embed ids (B, N, K) -> (B, N, D); a linear layer combines several codebooks.

    Args:
        code_vectors: initial embeddings (V, D) of each codebook. The ids of a codebook start after those of the one
            before it.
    """

    def __init__(self, code_vectors: list[Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.cat(code_vectors), freeze=False)
        self.pool: nn.Module = nn.Identity()
        if len(code_vectors) > 1:
            self.pool = nn.Linear(len(code_vectors), 1, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.table(ids)  # (B, N, K, D)
        return self.pool(embedded.mT)[..., 0]


def pooled_statistics(frames: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean and standard deviation of each item's frames (B, N, D), concatenated: (B, 2 D)."""
    mask = length_mask(lengths, frames.shape[1])[..., None]
    count = lengths[:, None]
    mean = (frames * mask).sum(1) / count
    variance = ((frames - mean[:, None]).square() * mask).sum(1) / count
    # The square root has no gradient at 0, where all frames are equal.
    deviation = (variance + 1e-5).sqrt()
    return torch.cat([mean, deviation], dim=1)


class Collator:
    """Turn rows of a dataset into tensors on a device.

    Args:
        target: encodes the labels.
        num_codebooks: K.
        device: device of the tensors.
    """

    def __init__(self, target: Target, num_codebooks: int, device: torch.device) -> None:
        self.target = target
        self.num_codebooks = num_codebooks
        self.device = device

    def __call__(self, rows: Dataset, indices: Sequence[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return codes (B, N, K) or features (B, N, D), lengths (B,) and the encoded labels.

        Args:
            rows: a dataset in numpy format, as `read_splits` returns it.
            indices: which of its rows.
        """
        inputs = []
        targets = []
        for index in indices:
            row = rows[int(index)]
            inputs.append(self._to_tensor(row["input"]))
            targets.append(self.target.encode(str(row["label"])))
        lengths = torch.tensor(list(map(len, inputs)))
        return pad_sequence(inputs, batch_first=True).to(self.device), lengths.to(self.device), targets

    def _to_tensor(self, values: np.ndarray) -> Tensor:
        """Return features (N, D), or flat codes (N * K,) as (N, K)."""
        if values.ndim == 2:
            return torch.from_numpy(values.astype(np.float32))
        return torch.from_numpy(values.astype(np.int64)).reshape(-1, self.num_codebooks)


def train_probe(
    probe: Probe, collator: Collator, splits: Mapping[str, Dataset], config: ProbeConfig, run: Path, quiet: bool
) -> list[dict[str, Any]]:
    """Train a probe, and load the weights of its best epoch at the end. A stopped run continues after its last epoch.

    Args:
        probe: the network.
        collator: makes its batches.
        splits: the rows, as `read_splits` returns them.
        config: configuration of the probe.
        run: folder of the run, for the best weights, a checkpoint and the log.
        quiet: show no progress bar.

    Returns:
        The log, with one entry per epoch.

    Raises:
        ValueError: The training diverges.
    """
    probe.to(collator.device)
    optimizer = torch.optim.AdamW(
        probe.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay
    )
    schedule = NewBob(config.decay, config.patience)
    log = _load_checkpoint(run, probe, optimizer, schedule)
    sampler = LengthGroupedSampler(splits["train"]["num_samples"], config.batch_size, config.seed)
    epochs = range(len(log), config.epochs)
    for epoch in tqdm(epochs, "epochs", config.epochs, initial=len(log), disable=quiet):
        start = perf_counter()
        # The order of rows and dropout depend only on the seed and the epoch, so a resumed run repeats them.
        torch.manual_seed(hash((config.seed, epoch)))
        sampler.set_epoch(epoch)
        order = [index % len(sampler) for index in sampler]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule.factor

        loss = _train_epoch(probe, collator, splits["train"], order, optimizer, config)
        validation_loss, results = evaluate_probe(probe, collator, splits["validation"], config.batch_size)
        if not math.isfinite(loss + validation_loss):
            raise ValueError(
                f"the training of {run} diverged in epoch {epoch + 1}: its loss is not finite. {CHECKPOINT} "
                f"holds the epoch before. Lower learning_rate ({config.learning_rate:g}) and name another folder"
            )
        schedule.observe(validation_loss)
        log.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "validation_loss": validation_loss,
                "validation_rate": error_rate(results),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": round(perf_counter() - start, 1),
            }
        )

        # The best weights are written before the checkpoint: if the run is killed in between, it repeats this epoch.
        if best_epoch(log) == epoch + 1:
            with whole_files(run) as temporary:
                save_file(probe.state_dict(), temporary / WEIGHTS)
        state = {
            "probe": probe.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "log": log,
        }
        save_checkpoint(run, state)
        lines = "\n".join(map(json.dumps, log)) + "\n"
        write_whole(run / LOG, lines.encode())
    probe.load_state_dict(load_file(run / WEIGHTS))
    return log


def _load_checkpoint(run: Path, probe: Probe, optimizer: torch.optim.Optimizer, schedule: NewBob) -> list[dict]:
    """Restore the last checkpoint of a run, if there is one, and return its log."""
    state = load_checkpoint(run)
    if state is None:
        return []
    probe.load_state_dict(state["probe"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["log"]


def _train_epoch(
    probe: Probe,
    collator: Collator,
    rows: Dataset,
    order: list[int],
    optimizer: torch.optim.Optimizer,
    config: ProbeConfig,
) -> float:
    """Train on all rows once, in this order, and return the mean loss of the updates."""
    probe.train()
    numpy_rows = rows.with_format("numpy")
    losses = []
    for indices in _batches(order, config.batch_size):
        inputs, lengths, targets = collator(numpy_rows, indices)
        logits = probe(inputs, lengths)
        loss = collator.target.loss(logits, lengths, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def evaluate_probe(
    probe: Probe, collator: Collator, rows: Dataset, batch_size: int
) -> tuple[float, list[dict[str, Any]]]:
    """Return the mean loss and, for each row, its id, label, prediction, number of errors, and number of labels."""
    probe.eval()
    losses = np.zeros(len(rows))
    predictions = [""] * len(rows)
    numpy_rows = rows.with_format("numpy")
    # Rows of similar length share a batch, so that there is little padding.
    by_length = np.argsort(rows["num_samples"], kind="stable").tolist()
    for indices in _batches(by_length, batch_size):
        inputs, lengths, targets = collator(numpy_rows, indices)
        logits = probe(inputs, lengths)
        losses[indices] = collator.target.loss(logits, lengths, targets).cpu()
        for index, prediction in zip(indices, collator.target.predict(logits, lengths), strict=True):
            predictions[index] = prediction

    results = []
    for row_id, label, prediction in zip(rows["id"], rows["label"], predictions, strict=True):
        errors, total = collator.target.count_errors(label, prediction)
        results.append({"id": row_id, "label": label, "prediction": prediction, "errors": errors, "total": total})
    return float(losses.mean()), results


def error_rate(results: list[dict[str, Any]]) -> float:
    """Return errors per label of the results of `evaluate_probe`; NaN if there are no labels."""
    errors = 0
    total = 0
    for result in results:
        errors += result["errors"]
        total += result["total"]
    return errors / total if total else math.nan


def best_epoch(log: list[dict[str, Any]]) -> int:
    """Return the epoch with the lowest validation error rate; among equals, the one with the lowest loss."""
    best = min(log, key=lambda entry: (entry["validation_rate"], entry["validation_loss"]))
    return best["epoch"]


def _batches(indices: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
