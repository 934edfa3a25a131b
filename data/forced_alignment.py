"""Which frames belong to which unit of what is said, learnt from the corpus that is aligned.

A hidden Markov model with a Gaussian for every unit begins with equal parts (Viterbi training, as in Kaldi's monophone
recipe); a small network then learns its answers from a frame with its neighbours and takes over, the hybrid of Bourlard
and Morgan (1994): its posteriors, divided by how frequent a unit is, are the likelihoods of the next alignment.

N frames, D feature width, U units of an utterance, C classes of units.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import trange

from .phonemes import PAUSES, START

_EASY = 300  # utterances that the Gaussians learn from
_GAUSSIAN_ROUNDS, _NETWORK_ROUNDS = 12, 4
_WIDTH = 24  # principal components that are kept of a feature
_NEIGHBOURS = 4  # frames on each side that the network sees
_TOGETHER = 128  # utterances of a batch

Array = NDArray[np.float32]
Score = Callable[[Array], Array]  # (N, D) -> (N, C) log likelihoods, but for a constant of each frame


def align(features: Sequence[Array], units: Sequence[Sequence[str]], progress: bool = True) -> list[list[int]]:
    """How many frames each unit lasts, at least one.

    Args:
        features: (N, D) of each utterance, such as log-mel frames.
        units: of each utterance, in order; those that end in the same symbol sound alike, and so do pauses.

    Raises:
        ValueError: an utterance with fewer frames than units.
    """
    for number, (one, own) in enumerate(zip(features, units, strict=True)):
        if len(one) < len(own):
            raise ValueError(
                f"utterance {number} has {len(one)} frames for {len(own)} units: its text is another one's"
            )
    classes, count = _classes(units)
    heard = _components(features)
    ends = [np.linspace(0, len(x), len(c) + 1).astype(int)[1:] for x, c in zip(heard, classes, strict=True)]
    easy = slice(_EASY)
    moving = [_with_slopes(one) for one in heard[easy]]
    for _ in trange(_GAUSSIAN_ROUNDS, desc="align: gaussians", disable=not progress):
        score = _gaussians(np.concatenate(moving), _owners(classes[easy], ends[easy]), count)
        ends[easy] = _viterbi(moving, classes[easy], score)
    learnt = easy
    for _ in trange(_NETWORK_ROUNDS, desc="align: network", disable=not progress):
        score = _network(heard[learnt], _owners(classes[learnt], ends[learnt]), count)
        ends, learnt = _viterbi(heard, classes, score), slice(None)
    return [np.diff(e, prepend=0).tolist() for e in ends]


def _classes(units: Sequence[Sequence[str]]) -> tuple[list[NDArray[np.int64]], int]:
    symbols = [["" if unit in PAUSES or unit == START else unit[-1] for unit in own] for own in units]
    table = {symbol: i for i, symbol in enumerate(sorted({symbol for own in symbols for symbol in own}))}
    return [np.array([table[symbol] for symbol in own]) for own in symbols], len(table)


def _owners(classes: Sequence[NDArray[np.int64]], ends: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The class of every frame of all utterances."""
    return np.concatenate([np.repeat(c, np.diff(e, prepend=0)) for c, e in zip(classes, ends, strict=True)])


def _components(features: Sequence[Array]) -> list[Array]:
    """(N, D) -> (N, _WIDTH): principal components, of deviation 1, of how frames differ within an utterance"""
    centred = [one.astype(np.float32) - one.astype(np.float32).mean(0) for one in features]
    covariance = sum(one.T @ one for one in centred) / sum(map(len, centred))
    values, vectors = np.linalg.eigh(covariance)
    kept = slice(-1, -1 - min(_WIDTH, len(values)), -1)
    basis = vectors[:, kept] / np.sqrt(values[kept] + 1e-6)
    return [(one @ basis).astype(np.float32) for one in centred]


def _with_slopes(frames: Array) -> Array:
    slopes = np.gradient(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    return np.concatenate([frames, slopes], axis=1).astype(np.float32)


def _gaussians(frames: Array, owners: NDArray[np.int64], count: int) -> Score:
    """One with a diagonal covariance for every class; those with few frames lean on all."""
    ones = np.eye(count, dtype=np.float32)[owners]
    weight, prior = ones.sum(0)[:, None], 20.0
    means = (ones.T @ frames + prior * frames.mean(0)) / (weight + prior)
    squares = (ones.T @ np.square(frames) + prior * np.square(frames).mean(0)) / (weight + prior)
    variances = np.maximum(squares - np.square(means), 0.05 * frames.var(0))
    constants = -0.5 * (np.square(means) / variances + np.log(variances)).sum(1)
    return lambda x: x @ (means / variances).T - 0.5 * np.square(x) @ (1 / variances).T + constants


def _network(heard: Sequence[Array], owners: NDArray[np.int64], count: int) -> Score:
    """A network of one hidden layer that tells the class of a frame."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frames, targets = torch.cat([_windows(x) for x in heard]), torch.from_numpy(owners)
        network = nn.Sequential(nn.Linear(frames.shape[1], 256), nn.ReLU(), nn.Linear(256, count))
        updates = max(600, 2 * len(frames) // 512)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        for _ in range(updates):
            chosen = torch.randint(len(frames), (512,))
            loss = F.cross_entropy(network(frames[chosen]), targets[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    frequency = torch.bincount(targets, minlength=count).clamp(min=1).float()
    prior = (frequency / frequency.sum()).log()
    return lambda x: (network(_windows(x)).log_softmax(-1) - prior).detach().numpy()


def _windows(frames: Array) -> Tensor:
    """(N, D) -> (N, (2 * _NEIGHBOURS + 1) * D): every frame with its neighbours"""
    padded = np.pad(frames, ((_NEIGHBOURS, _NEIGHBOURS), (0, 0)), mode="edge")
    return torch.from_numpy(padded).unfold(0, 2 * _NEIGHBOURS + 1, 1).flatten(1)


def _viterbi(heard: Sequence[Array], classes: Sequence[NDArray[np.int64]], score: Score) -> list[NDArray[np.int64]]:
    """The likeliest ends of the units of every utterance; those of like length side by side"""
    order = np.argsort([len(x) for x in heard])
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(heard)
    for start in range(0, len(order), _TOGETHER):
        batch = order[start : start + _TOGETHER]
        longest, most = max(len(heard[i]) for i in batch), max(len(classes[i]) for i in batch)
        own = np.full((longest, len(batch), most), -1e4, np.float32)
        for row, i in enumerate(batch):
            own[: len(heard[i]), row, : len(classes[i])] = score(heard[i])[:, classes[i]]
        best = np.full(own.shape[1:], -1e9, np.float32)
        best[:, 0] = own[0, :, 0]
        moved = np.zeros(own.shape, bool)
        before = np.full_like(best, -1e9)
        for n in range(1, longest):
            before[:, 1:] = best[:, :-1]
            np.greater(before, best, out=moved[n])
            best = np.maximum(before, best) + own[n]
        for row, i in enumerate(batch):
            found[i] = _ends(moved[: len(heard[i]), row], len(classes[i]))
    return found


def _ends(moved: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The way back from the last unit at the last frame: where each unit ends, not included"""
    ends, unit = np.zeros(count, np.int64), count - 1
    ends[unit] = len(moved)
    for n in range(len(moved) - 1, 0, -1):
        if moved[n, unit]:
            unit -= 1
            ends[unit] = n
    assert unit == 0
    return ends
