"""Training batches of features that a frozen encoder has computed once, in half precision on disk.

An encoder costs more than a small codec's other parts together. Utterances are joined into rows of up to 28 s before
they are encoded, so that the features of a clip are those inside a long recording, at any position. The name of a file
is a hash of its row's samples and of the encoder, so an interrupted run continues, and a changed corpus costs only its
new rows. A digest beside each file shows whether its bytes are still those that were written.

B batch, T frames, D feature width.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..files import whole_file, write_whole
from ..focalcodec.modeling import FocalCodecModel
from ..waveform import Waveform, resample
from .config import CodecStageConfig
from .dataset import AudioRates, Batch, draw_augmented
from .recordings import Recording, to_16_bits

logger = logging.getLogger(__name__)

_ROW_S = 28.0  # below the 30 s of Whisper


@dataclass(frozen=True)
class Row:
    """Joined utterances, at the output rate of the codec, and the file of their features."""

    samples: NDArray[np.int16]  # (frames * hop,)
    path: Path

    def features(self) -> NDArray[np.float16]:
        """Open the features (T, D) without reading them."""
        return np.load(self.path, mmap_mode="r")


class CachedDataset(Dataset):
    """Item i is the batch of step i, or the share of this process in it: clips at random positions, with features.

    Args:
        recordings: recordings at the rate `rates.output`.
        model: codec with a frozen encoder.
        config: batch size, clip length, augmentation and cache. An utterance is augmented once for each copy.
        rates: rates of the codec.
        process: index of this process.
        num_processes: number of processes that share a batch.
        progress: whether to show a progress bar while features are computed.

    Raises:
        ValueError: The batch cannot be shared evenly.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        model: FocalCodecModel,
        config: CodecStageConfig,
        rates: AudioRates,
        process: int = 0,
        num_processes: int = 1,
        progress: bool = False,
    ) -> None:
        assert config.cache is not None
        if config.batch_size % num_processes:
            raise ValueError(f"batch_size ({config.batch_size}) is not a multiple of the {num_processes} processes")
        self.config = config
        self.rates = rates
        self.hop = model.config.hop_length
        share = config.batch_size // num_processes
        self._items = range(process * share, (process + 1) * share)
        folder = Path(config.cache.folder)
        folder.mkdir(parents=True, exist_ok=True)
        encoder_hash = _hash_weights(model.encoder)
        self.rows: list[Row] = []
        waves = self._join(recordings)
        for wave in tqdm(waves, "features", disable=not progress, unit=" rows"):
            # The samples of a row are rounded before they are encoded, because rounded ones are kept.
            samples = to_16_bits(wave)
            name = hashlib.sha256(encoder_hash + samples.tobytes()).hexdigest()[:24]
            row = Row(samples, folder / f"{name}.npy")
            if not _is_whole(row.path):
                features = self._encode(model, samples)
                _digest_path(row.path).unlink(missing_ok=True)
                with whole_file(row.path) as temporary:
                    np.save(temporary, features)
                _is_whole(row.path)
            self.rows.append(row)
        self._ends = np.cumsum([len(row.samples) for row in self.rows])

    @property
    def seconds(self) -> float:
        """Duration of all rows together."""
        return float(self._ends[-1]) / self.rates.output

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which as much audio is drawn as the corpus holds."""
        return max(1, round(self.seconds / (self.config.batch_size * self.config.clip_seconds)))

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        output_hop = self._output_hop
        features = []
        audio = []
        for item in self._items:
            rng = np.random.default_rng([self.config.seed, step, item])
            row = self.rows[int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))]
            stored = row.features()
            size = round(self.config.clip_seconds * self.rates.input / self.hop)
            start = int(rng.integers(max(1, len(stored) - size + 1)))
            clip = torch.from_numpy(stored[start : start + size].astype(np.float32))
            samples = row.samples[start * output_hop : (start + size) * output_hop].astype(np.float32) / 32768
            features.append(_pad(clip, size))
            audio.append(_pad(torch.from_numpy(samples), size * output_hop))
        target = torch.stack(audio)
        inputs = target
        if self.rates.output != self.rates.input:
            waves = [resample(wave.numpy(), self.rates.output, self.rates.input) for wave in audio]
            inputs = torch.from_numpy(np.stack(waves))
        lengths = torch.full((len(target),), inputs.shape[1])
        return Batch(inputs, target, lengths, features=torch.stack(features))

    @property
    def _output_hop(self) -> int:
        return self.hop * self.rates.output // self.rates.input

    def _join(self, recordings: Sequence[Recording]) -> Iterator[Waveform]:
        """Join augmented utterances to rows of whole frames."""
        assert self.config.cache is not None
        size = int(_ROW_S * self.rates.output) // self._output_hop * self._output_hop
        for copy in range(self.config.cache.copies):
            waiting = np.empty(0, np.float32)
            for index, recording in enumerate(recordings):
                rng = np.random.default_rng([self.config.seed, copy, index])
                clip = draw_augmented(recording, self.rates.output, rng, self.config.augmentation, recordings)
                if len(waiting) and len(waiting) + len(clip) > size:
                    yield self._whole_frames(waiting)
                    waiting = clip[:0]
                # Only an utterance that is longer than a row is cut.
                waiting = np.concatenate([waiting, clip])
                while len(waiting) > size:
                    yield waiting[:size]
                    waiting = waiting[size:]
            yield self._whole_frames(waiting)

    def _whole_frames(self, wave: Waveform) -> Waveform:
        return np.pad(wave, (0, -len(wave) % self._output_hop))

    @torch.no_grad()
    def _encode(self, model: FocalCodecModel, samples: NDArray[np.int16]) -> NDArray[np.float16]:
        wave = resample(samples.astype(np.float32) / np.float32(32768), self.rates.output, self.rates.input)
        batch = torch.from_numpy(wave)[None].to(model.device)
        return model.encoder(batch, None, model._new_state(batch))[0].half().cpu().numpy()


def _is_whole(path: Path) -> bool:
    """Compare a file of features with its digest, which is written when the file is first seen."""
    if not path.exists():
        return False
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not _digest_path(path).exists():
        write_whole(_digest_path(path), digest.encode())
    if _digest_path(path).read_text() == digest:
        return True
    logger.warning("%s is damaged and is computed again", path)
    return False


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _hash_weights(module: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _pad(x: Tensor, size: int) -> Tensor:
    """Pad the first axis with zeros at its end."""
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
