"""Forced alignment: which frames of a recording belong to which phoneme of its text.

The models are trained on the corpus that is aligned. A hidden Markov model with a Gaussian per phoneme starts from
equal parts (Viterbi training, as in Kaldi's monophone recipe). A small network then learns this alignment from each
frame and its neighbors and replaces the Gaussians (the hybrid of Bourlard and Morgan, 1994): its posteriors, divided by
the frequency of each phoneme, are the likelihoods of the next alignment.

Files in a token store:

alignment.parquet   columns id, units, frames of every utterance that could be aligned
lexicon.json        the phonemes of each word of the texts

N is the number of frames, D the feature width, U the number of units of an utterance and C the number of classes of
units.
"""

import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import trange

from ..tokenizer.configs import read_json
from ..tokenizer.files import write_whole
from .phonemes import PAUSES, WORD_START, build_lexicon, text_to_units
from .token_store import TokenStore

logger = logging.getLogger(__name__)

ALIGNMENT_FILE = "alignment.parquet"
LEXICON_FILE = "lexicon.json"

_MAX_PHONEME_S = 0.6  # a longer one means that the text does not match the speech
_NUM_GAUSSIAN_UTTERANCES = 300  # the Gaussians need no more, and align only these
_GAUSSIAN_ROUNDS = 12
_NETWORK_ROUNDS = 4
_NUM_COMPONENTS = 24  # principal components of a feature
_NUM_NEIGHBORS = 4  # frames on each side that the network sees
_VITERBI_BATCH_SIZE = 128
_TRAINING_BATCH_SIZE = 512  # frames
_PRIOR_FRAMES = 20.0  # weight of the average of all classes in each Gaussian
_IMPOSSIBLE = -1e4  # log likelihood of padding
_UNREACHABLE = -1e9

Features = NDArray[np.float32]
Indices = NDArray[np.int64]
Score = Callable[[Features], Features]  # (N, D) -> (N, C) log likelihoods, up to a constant per frame


def align_store(folder: Path, texts: Iterable[str] = (), language: str = "en-us", progress: bool = True) -> str:
    """Align the texts of a token store with its features, and write both files into it.

    Args:
        folder: token store with texts and features.
        texts: more texts whose words go into the lexicon.
        language: name of the language in espeak-ng.
        progress: show a progress bar.

    Returns:
        A summary in one line. A warning names the utterances that were left out, by reason.

    Raises:
        ValueError: The store has no features or no texts, or no text fits its recording.
    """
    store = TokenStore(folder)
    if "features" not in store.columns:
        raise ValueError(
            f"{folder} has no features: make another store with\n  focallm tokenize CORPUS STORE --features"
        )
    rows = []
    store_texts = []
    for row in store:
        if row["text"]:
            rows.append(row)
            store_texts.append(row["text"])
    if not rows:
        raise ValueError(f"{folder} has no texts: tokenize a corpus with transcripts (a manifest with the key text)")
    lexicon = build_lexicon([*store_texts, *texts], language)

    ids: list[str] = []
    features: list[Features] = []
    units: list[list[str]] = []
    left_out: dict[str, list[str]] = {}
    for row in rows:
        row_features = _features_per_frame(row, store.manifest["codec"]["num_codebooks"])
        try:
            row_units = text_to_units(row["text"], lexicon.__getitem__)
        except ValueError:
            left_out.setdefault("no word", []).append(row["id"])
        except KeyError:
            left_out.setdefault("a word without phonemes", []).append(row["id"])
        else:
            if len(row_features) < len(row_units):
                left_out.setdefault("more phonemes than frames", []).append(row["id"])
                continue
            ids.append(row["id"])
            features.append(row_features)
            units.append(row_units)
    if not ids:
        reasons = ", ".join(f"{len(row_ids)} have {reason}" for reason, row_ids in left_out.items())
        raise ValueError(f"no text of {folder} can be aligned: {reasons}")

    max_frames = _MAX_PHONEME_S * store.manifest["codec"]["frame_rate"]
    aligned = []
    num_units = 0
    for row_id, row_units, frames in zip(ids, units, align(features, units, progress), strict=True):
        if _is_plausible(row_units, frames, max_frames):
            aligned.append({"id": row_id, "units": row_units, "frames": frames})
            num_units += len(row_units)
        else:
            left_out.setdefault("a phoneme that lasts too long to be of their text", []).append(row_id)
    for reason, row_ids in left_out.items():
        logger.warning("%d utterances have %s and are left out: %s", len(row_ids), reason, ", ".join(row_ids[:20]))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(aligned), buffer, write_page_checksum=True)
    write_whole(folder / ALIGNMENT_FILE, buffer.getvalue())
    write_whole(folder / LEXICON_FILE, json.dumps(lexicon, ensure_ascii=False, indent=0).encode())
    return (
        f"{folder / ALIGNMENT_FILE}: {len(aligned)} of {len(store)} utterances, {num_units} units; "
        f"{folder / LEXICON_FILE}: {len(lexicon)} words"
    )


def read_alignment(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the alignment of a token store.

    Args:
        folder: the token store.

    Returns:
        By the id of a row: its id, units and frames.

    Raises:
        ValueError: The store has not been aligned, or the file is damaged.
    """
    path = _check_exists(folder / ALIGNMENT_FILE)
    try:
        rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged ({error}): make it again with\n  focallm align {folder}") from None
    return {row["id"]: row for row in rows}


def read_lexicon(folder: Path) -> dict[str, str]:
    """Read the phonemes of the words of a token store.

    Args:
        folder: the token store.

    Raises:
        ValueError: The store has not been aligned.
    """
    return read_json(_check_exists(folder / LEXICON_FILE))


def align(features: Sequence[Features], units: Sequence[Sequence[str]], progress: bool = True) -> list[list[int]]:
    """Find how many frames each unit lasts.

    Args:
        features: (N, D) of each utterance, such as log-mel frames.
        units: units of each utterance in order. Units that end with the same symbol share a model, and so do pauses.
        progress: show a progress bar.

    Returns:
        For each utterance, the number of frames of each unit, at least one.

    Raises:
        ValueError: An utterance has fewer frames than units.
    """
    for number, (utterance_features, utterance_units) in enumerate(zip(features, units, strict=True)):
        if len(utterance_features) < len(utterance_units):
            raise ValueError(
                f"utterance {number} has {len(utterance_features)} frames for {len(utterance_units)} units: its text "
                "probably belongs to another recording"
            )
    classes, num_classes = _to_classes(units)
    frames = _principal_components(features)
    ends = []
    for utterance_frames, utterance_classes in zip(frames, classes, strict=True):
        equal_parts = np.linspace(0, len(utterance_frames), len(utterance_classes) + 1)
        ends.append(equal_parts.astype(int)[1:])

    # The Gaussians see the change over time as well; the network sees the neighbors themselves.
    subset = slice(_NUM_GAUSSIAN_UTTERANCES)
    with_slopes = list(map(_append_slopes, frames[subset]))
    for _ in trange(_GAUSSIAN_ROUNDS, desc="align: gaussians", disable=not progress):
        targets = _class_per_frame(classes[subset], ends[subset])
        score = _fit_gaussians(np.concatenate(with_slopes), targets, num_classes)
        ends[subset] = _viterbi(with_slopes, classes[subset], score)

    # The first network learns from the utterances that are aligned so far, the others from all.
    for _ in trange(_NETWORK_ROUNDS, desc="align: network", disable=not progress):
        targets = _class_per_frame(classes[subset], ends[subset])
        score = _train_network(frames[subset], targets, num_classes)
        ends = _viterbi(frames, classes, score)
        subset = slice(None)
    return [np.diff(utterance_ends, prepend=0).tolist() for utterance_ends in ends]


def _check_exists(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with\n  focallm align {path.parent}")
    return path


def _features_per_frame(row: dict[str, Any], num_codebooks: int) -> Features:
    """Return (N, D) features at the times of the N token frames, which can be fewer than the features."""
    features = row["features"]
    num_frames = len(row["codes"]) // num_codebooks
    return features[np.arange(num_frames) * len(features) // max(num_frames, 1)]


def _is_plausible(units: list[str], frames: list[int], max_frames: float) -> bool:
    for unit, num_frames in zip(units, frames, strict=True):
        is_pause = unit == WORD_START or unit in PAUSES
        if num_frames > max_frames and not is_pause:
            return False
    return True


def _to_classes(units: Sequence[Sequence[str]]) -> tuple[list[Indices], int]:
    """Return the class of each unit, (U,) per utterance, and the number of classes."""
    symbols = []
    for utterance_units in units:
        symbols.append(list(map(_sounding_symbol, utterance_units)))
    # Sorted, so that the same corpus always gives the same classes.
    table = sorted(set().union(*symbols))
    classes = []
    for utterance_symbols in symbols:
        classes.append(np.searchsorted(table, utterance_symbols))
    return classes, len(table)


def _sounding_symbol(unit: str) -> str:
    """Return the symbol without its prefix, and the same empty string for all pauses."""
    if unit == WORD_START or unit in PAUSES:
        return ""
    return unit[-1]


def _class_per_frame(classes: Sequence[Indices], ends: Sequence[Indices]) -> Indices:
    """Return the class of every frame of all utterances, one after the other."""
    parts = []
    for utterance_classes, utterance_ends in zip(classes, ends, strict=True):
        parts.append(np.repeat(utterance_classes, np.diff(utterance_ends, prepend=0)))
    return np.concatenate(parts)


def _principal_components(features: Sequence[Features]) -> list[Features]:
    """(N, D) -> (N, _NUM_COMPONENTS) for each utterance: the directions in which its frames differ, with deviation 1.

    The mean of each utterance is removed, since it depends on the voice and the microphone.
    """
    centered = []
    for utterance_features in features:
        as_float = utterance_features.astype(np.float32)
        centered.append(as_float - as_float.mean(0))
    covariance = sum(frames.T @ frames for frames in centered) / sum(map(len, centered))
    # eigh sorts the eigenvalues in ascending order, so the last ones are kept.
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    kept = slice(-1, -1 - min(_NUM_COMPONENTS, len(eigenvalues)), -1)
    basis = eigenvectors[:, kept] / np.sqrt(eigenvalues[kept] + 1e-6)
    return [(frames @ basis).astype(np.float32) for frames in centered]


def _append_slopes(frames: Features) -> Features:
    slopes = np.gradient(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    return np.concatenate([frames, slopes], axis=1).astype(np.float32)


def _fit_gaussians(frames: Features, targets: Indices, num_classes: int) -> Score:
    """Fit a Gaussian with diagonal covariance per class. Classes with few frames are drawn toward the average."""
    one_hot = np.eye(num_classes, dtype=np.float32)[targets]
    weights = one_hot.sum(0)[:, None]
    means = (one_hot.T @ frames + _PRIOR_FRAMES * frames.mean(0)) / (weights + _PRIOR_FRAMES)
    squares = one_hot.T @ np.square(frames) + _PRIOR_FRAMES * np.square(frames).mean(0)
    squares = squares / (weights + _PRIOR_FRAMES)
    # A floor for the variances, below which a Gaussian would attract only the frames that it was fitted to.
    variances = np.maximum(squares - np.square(means), 0.05 * frames.var(0))
    constants = -0.5 * (np.square(means) / variances + np.log(variances)).sum(1)
    return lambda x: x @ (means / variances).T - 0.5 * np.square(x) @ (1 / variances).T + constants


def _train_network(utterances: Sequence[Features], targets: Indices, num_classes: int) -> Score:
    """Train a network with one hidden layer to classify frames."""
    # The same weights for the same data, without a change of the caller's random state.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frames = torch.cat(list(map(_with_neighbors, utterances)))
        labels = torch.from_numpy(targets)
        network = nn.Sequential(nn.Linear(frames.shape[1], 256), nn.ReLU(), nn.Linear(256, num_classes))
        num_updates = max(600, 2 * len(frames) // _TRAINING_BATCH_SIZE)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
        for _ in range(num_updates):
            batch = torch.randint(len(frames), (_TRAINING_BATCH_SIZE,))
            loss = F.cross_entropy(network(frames[batch]), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    frequencies = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    log_prior = (frequencies / frequencies.sum()).log()
    return lambda x: (network(_with_neighbors(x)).log_softmax(-1) - log_prior).detach().numpy()


def _with_neighbors(frames: Features) -> Tensor:
    """(N, D) -> (N, (2 * _NUM_NEIGHBORS + 1) * D): every frame with its neighbors."""
    padded = np.pad(frames, ((_NUM_NEIGHBORS, _NUM_NEIGHBORS), (0, 0)), mode="edge")
    return torch.from_numpy(padded).unfold(0, 2 * _NUM_NEIGHBORS + 1, 1).flatten(1)


def _viterbi(frames: Sequence[Features], classes: Sequence[Indices], score: Score) -> list[Indices]:
    """Return the most likely end of each unit, (U,) per utterance. A unit ends before the frame of this index."""
    # Utterances of similar length share a batch, so that there is little padding.
    num_frames = np.array(list(map(len, frames)))
    num_units = np.array(list(map(len, classes)))
    order = np.argsort(num_frames)
    ends: list[Indices] = [np.zeros(0, np.int64)] * len(frames)
    for start in range(0, len(order), _VITERBI_BATCH_SIZE):
        batch = order[start : start + _VITERBI_BATCH_SIZE]
        max_frames = num_frames[batch].max()
        max_units = num_units[batch].max()
        likelihoods = np.full((max_frames, len(batch), max_units), _IMPOSSIBLE, np.float32)
        for row, i in enumerate(batch):
            likelihoods[: num_frames[i], row, : num_units[i]] = score(frames[i])[:, classes[i]]

        # best[row, u]: log likelihood of the best path that is in unit u at this frame. A path starts in unit 0 and
        # stays in a unit or moves on to the next.
        best = np.full(likelihoods.shape[1:], _UNREACHABLE, np.float32)
        best[:, 0] = likelihoods[0, :, 0]
        moved = np.zeros(likelihoods.shape, bool)
        from_previous = np.full_like(best, _UNREACHABLE)
        for n in range(1, max_frames):
            from_previous[:, 1:] = best[:, :-1]
            np.greater(from_previous, best, out=moved[n])
            best = np.maximum(from_previous, best) + likelihoods[n]
        for row, i in enumerate(batch):
            ends[i] = _trace_back(moved[: num_frames[i], row], num_units[i])
    return ends


def _trace_back(moved: NDArray[np.bool_], num_units: int) -> Indices:
    """Follow the best path back from the last unit at the last frame. Returns the end of each unit, (U,).

    Args:
        moved: (N, U), whether the best path to a unit comes from the previous unit.
        num_units: number of units of the utterance.
    """
    ends = np.zeros(num_units, np.int64)
    unit = num_units - 1
    ends[unit] = len(moved)
    for n in range(len(moved) - 1, 0, -1):
        if moved[n, unit]:
            unit -= 1
            ends[unit] = n
    assert unit == 0, "each unit gets at least one frame"
    return ends
