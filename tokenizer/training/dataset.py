"""Training batches of random clips or whole utterances, with augmentation.

The content of a batch depends only on the seed and the step, so a resumed run sees the same data.
B batch, T samples.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm import tqdm

from ..noise import colored_noise, modulated_noise
from ..waveform import Waveform, resample
from .config import AugmentationConfig, StageConfig
from .recordings import Recording, open_recordings

_AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_LEVEL_DB = (-12, 3)
_REVERB_S = (0.1, 0.6)  # time in which the tail of a room decays by 60 dB
_DIRECT_DB = (3, 18)  # level of the direct signal above the tail


# ---- batches ----


@dataclass(frozen=True)
class AudioRates:
    """Sampling rates of a codec in Hz, and the number of input samples of which a clip must be a multiple."""

    input: int = 16000
    output: int = 16000
    multiple: int = 320


@dataclass(frozen=True)
class Batch:
    """Waveforms at the input rate and at the output rate of the codec, padded with zeros."""

    input_audio: Tensor  # (B, T) at the input rate
    target_audio: Tensor  # (B, T') at the output rate
    lengths: Tensor  # (B,) number of real samples in `input_audio`
    texts: tuple[str, ...] = ()
    features: Tensor | None = None  # (B, frames, D) of `input_audio`, if they were computed before
    clean_audio: Tensor | None = None  # (B, T) `input_audio` without noise and reverb, for stage "denoising"

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on another device."""
        return replace(
            self,
            input_audio=self.input_audio.to(device),
            target_audio=self.target_audio.to(device),
            lengths=self.lengths.to(device),
            features=None if self.features is None else self.features.to(device),
            clean_audio=None if self.clean_audio is None else self.clean_audio.to(device),
        )


def make_batch(clips: Sequence[Waveform], rates: AudioRates, texts: tuple[str, ...] = ()) -> Batch:
    """Pad clips at the output rate to the longest, and resample them to the input rate."""
    inputs = [resample(clip, rates.output, rates.input) for clip in clips]
    lengths = torch.tensor([len(wave) for wave in inputs])
    return Batch(_pad(inputs), _pad(clips), lengths, texts)


def _pad(waves: Sequence[Waveform]) -> Tensor:
    return pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)


class ClipDataset(Dataset):
    """Item i is the batch of step i, or the share of this process in it.

    Clips start at random positions: long recordings are drawn more often, and short ones are padded with zeros. Whole
    utterances (`clip_seconds` 0) are drawn once per epoch, in batches of similar length.

    Args:
        recordings: recordings at the rate `rates.output`.
        config: batch size, clip length, augmentation and seed.
        rates: rates of the codec.
        texts: transcript of each recording.
        process: index of this process.
        num_processes: number of processes that share a batch.

    Raises:
        ValueError: The batch cannot be shared evenly, or no utterance is short enough.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: StageConfig,
        rates: AudioRates,
        texts: Sequence[str] | None = None,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        if config.batch_size % num_processes:
            raise ValueError(f"batch_size ({config.batch_size}) is not a multiple of the {num_processes} processes")
        self.config = config
        self.rates = rates
        texts = texts or [""] * len(recordings)
        self.recordings: list[Recording] = []
        self.texts: list[str] = []
        for recording, text in zip(recordings, texts, strict=True):
            if config.clip_seconds or len(recording) <= config.max_seconds * rates.output:
                self.recordings.append(recording)
                self.texts.append(text)
        if not self.recordings:
            raise ValueError(f"no utterance is as short as max_seconds ({config.max_seconds}): raise max_seconds")
        self._sizes = np.array([len(recording) for recording in self.recordings])
        self._ends = np.cumsum(self._sizes)
        share = config.batch_size // num_processes
        self._items = range(process * share, (process + 1) * share)
        # The epoch that was shuffled last, and its order.
        self._epoch = -1
        self._order = np.array([])

    @property
    def seconds(self) -> float:
        """Duration of all recordings together."""
        return float(self._ends[-1]) / self.rates.output

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which as much audio is drawn as the corpus holds."""
        if self.config.clip_seconds:
            return max(1, round(self.seconds / (self.config.batch_size * self.config.clip_seconds)))
        return max(1, len(self.recordings) // self.config.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        clips = []
        clean_clips = []
        texts = []
        for item in self._items:
            rng = np.random.default_rng([self.config.seed, step, item])
            if self.config.clip_seconds:
                clip = self._draw_clip(rng)
                text = ""  # the transcript of a clip is not known
            else:
                clip, text = self._draw_utterance(step, item, rng)
            clean, noisy = augment(clip, self.rates.output, rng, self.config.augmentation, self.recordings)
            clips.append(noisy)
            clean_clips.append(clean)
            texts.append(text)
        batch = make_batch(clips, self.rates, tuple(texts))
        if self.config.stage == "denoising":
            batch = replace(batch, clean_audio=make_batch(clean_clips, self.rates).input_audio)
        return batch

    def _draw_clip(self, rng: np.random.Generator) -> Waveform:
        num_multiples = round(self.config.clip_seconds * self.rates.input / self.rates.multiple)
        size = num_multiples * self.rates.multiple * self.rates.output // self.rates.input
        # A random sample of the concatenated corpus selects the recording, so long ones are drawn more often.
        index = np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right")
        recording = self.recordings[int(index)]
        speed = _draw_speed(rng, self.config.augmentation.speed)
        num_samples = round(size * speed)
        start = int(rng.integers(max(1, len(recording) - num_samples + 1)))
        clip = _read_at_speed(recording, start, num_samples, speed)[:size]
        return np.pad(clip, (0, size - len(clip)))

    def _draw_utterance(self, step: int, item: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        epoch, row = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._order = self._shuffle(epoch)
            self._epoch = epoch
        index = int(self._order[row, item])
        speed = _draw_speed(rng, self.config.augmentation.speed)
        return _read_at_speed(self.recordings[index], 0, int(self._sizes[index]), speed), self.texts[index]

    def _shuffle(self, epoch: int) -> np.ndarray:
        """Return (steps_per_epoch, batch_size) indices: rows of similar length, in random order."""
        rng = np.random.default_rng([self.config.seed, epoch])
        by_length = np.argsort(self._sizes * rng.uniform(0.9, 1.1, len(self._sizes)), kind="stable")
        # If the corpus is not a multiple of the batch size, each epoch leaves out different utterances.
        num_utterances = self.steps_per_epoch * self.config.batch_size
        first = int(rng.integers(max(1, len(by_length) - num_utterances + 1)))
        rows = np.resize(by_length[first:], num_utterances).reshape(self.steps_per_epoch, -1)
        return rng.permutation(rows)


def open_datasets(
    config: StageConfig,
    paths: Sequence[Path],
    texts: Sequence[str | None] | None,
    rates: AudioRates,
    process: int = 0,
    num_processes: int = 1,
    progress: bool = False,
) -> tuple[ClipDataset, list[Batch]]:
    """Open a corpus: its last `validation_files` are for evaluation, the others for training.

    Args:
        config: config of the stage. Stage "teacher" uses only files with a transcript.
        paths: audio files.
        texts: transcript of each file, None where there is none.
        rates: rates of the codec.
        process: index of this process.
        num_processes: number of processes that share a batch.
        progress: whether to show a progress bar while files are read.

    Returns:
        The training set, and a batch for each whole recording of the evaluation set.

    Raises:
        ValueError: There are too few files, or none is short enough.
    """
    used_paths = []
    used_texts = []
    for path, text in zip(paths, texts or [None] * len(paths), strict=True):
        if config.stage != "teacher" or (text and text.strip()):
            used_paths.append(path)
            used_texts.append(text or "")
    num_train = len(used_paths) - config.validation_files
    if num_train <= 0 and config.stage == "teacher":
        raise ValueError(
            f"stage teacher learns from transcripts: {len(used_paths)} of the {len(paths)} files have one, not more "
            f"than validation_files ({config.validation_files}): add transcripts, or lower validation_files"
        )
    if num_train <= 0:
        raise ValueError(
            f"{len(paths)} audio files are not more than the {config.validation_files} for validation: add files, or "
            "lower validation_files"
        )

    # Only reading all files into memory takes long enough for a progress bar.
    bar = tqdm if progress and config.in_memory else None
    recordings, kept_texts = open_recordings(
        used_paths[:num_train], rates.output, config.in_memory, used_texts[:num_train], bar
    )
    train_dataset = ClipDataset(recordings, config, rates, kept_texts, process, num_processes)

    recordings, kept_texts = open_recordings(used_paths[num_train:], rates.output, texts=used_texts[num_train:])
    max_samples = round(config.max_seconds * rates.output)
    eval_dataset = []
    for index, (recording, text) in enumerate(zip(recordings, kept_texts, strict=True)):
        wave = recording.read(0, max_samples)
        if config.stage == "denoising":
            rng = np.random.default_rng([config.seed, index])
            clean, noisy = augment(wave, rates.output, rng, config.augmentation, recordings)
            batch = make_batch([noisy], rates, (text,))
            eval_dataset.append(replace(batch, clean_audio=make_batch([clean], rates).input_audio))
        # A codec is evaluated on the beginning of a long recording. A transcript belongs to the whole of it.
        elif config.stage != "teacher" or len(recording) <= max_samples:
            eval_dataset.append(make_batch([wave], rates, (text,)))
    if not eval_dataset:
        raise ValueError(
            f"none of the {config.validation_files} validation_files is as short as max_seconds "
            f"({config.max_seconds}): raise max_seconds"
        )
    return train_dataset, eval_dataset


# ---- augmentation ----


def draw_augmented(
    recording: Recording,
    sampling_rate: int,
    rng: np.random.Generator,
    config: AugmentationConfig,
    corpus: Sequence[Recording],
) -> Waveform:
    """Read a whole recording at a random speed and augment it, with babble of the corpus."""
    speed = _draw_speed(rng, config.speed)
    clip = _read_at_speed(recording, 0, len(recording), speed)
    return augment(clip, sampling_rate, rng, config, corpus)[1]


def augment(
    clip: Waveform,
    sampling_rate: int,
    rng: np.random.Generator,
    config: AugmentationConfig,
    corpus: Sequence[Recording] = (),
) -> tuple[Waveform, Waveform]:
    """Apply a random reverb, spectral tilt, noise and level to a clip. The level is limited to avoid clipping.

    Args:
        clip: (T,) speech.
        sampling_rate: its rate in Hz.
        rng: generator of the draws.
        config: what is drawn.
        corpus: recordings from which babble is added up.

    Returns:
        (T,) the clip without reverb and noise, and (T,) with both. Tilt and level are those of the other.
    """
    clean = clip
    if rng.random() < config.reverb_probability:
        clip = _add_reverb(clip, sampling_rate, rng)
    if config.tilt_db:
        tilt_db = rng.uniform(-config.tilt_db, config.tilt_db)
        clean = _tilt(clean, sampling_rate, tilt_db)
        clip = _tilt(clip, sampling_rate, tilt_db)
    if config.noise is not None and rng.random() < config.noise_probability:
        noise = _draw_noise(len(clip), sampling_rate, rng, config, corpus)
        level = float(np.sqrt(np.mean(noise**2))) or 1.0
        snr_db = rng.uniform(*config.noise_snr_db)
        gain = float(np.sqrt(np.mean(clip**2))) / level * 10 ** (-snr_db / 20)
        clip = clip + np.float32(gain) * noise
    gain = 10 ** (rng.uniform(*_LEVEL_DB) / 20)
    peak = float(np.abs(clip).max(initial=0))
    limited = np.float32(min(gain, 1 / max(peak, 1e-3)))
    return limited * clean, limited * clip


def _draw_noise(
    size: int, sampling_rate: int, rng: np.random.Generator, config: AugmentationConfig, corpus: Sequence[Recording]
) -> Waveform:
    """Draw (size,) noise: babble, colored noise, or part of a noise recording."""
    assert config.noise is not None
    kind = rng.random() if config.babble or config.colored else 1.0
    if kind < config.babble:
        voices = []
        for index in rng.integers(len(corpus), size=rng.integers(4, 9)):
            voice = _read_repeated(corpus[int(index)], size, rng)
            voices.append(voice / max(1e-4, float(np.sqrt(np.mean(voice**2)))))
        return np.sum(voices, axis=0, dtype=np.float32)
    if kind < config.babble + config.colored:
        make_noise = colored_noise if rng.random() < 0.5 else modulated_noise
        return make_noise(size, sampling_rate, rng)[0]
    recordings = _open_noise(config.noise, sampling_rate)
    return _read_repeated(recordings[int(rng.integers(len(recordings)))], size, rng)


def _read_repeated(recording: Recording, size: int, rng: np.random.Generator) -> Waveform:
    """Read (size,) from a random start of a recording to its end, and again from the beginning."""
    start = int(rng.integers(len(recording)))
    wave = recording.read(start, size)
    if len(wave) < size:
        wave = np.resize(np.concatenate([wave, recording.read(0, min(start, size))]), size)
    return wave


@functools.cache
def _open_noise(folder: str, sampling_rate: int) -> list[Recording]:
    """Read all recordings of a folder of noise."""
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix in _AUDIO_SUFFIXES)
    if not paths:
        raise ValueError(f"augmentation.noise: {folder} has no recordings ({', '.join(_AUDIO_SUFFIXES)})")
    return open_recordings(paths, sampling_rate)[0]


def _draw_speed(rng: np.random.Generator, speed: float) -> float:
    """Return a random factor from 1 / (1 + speed) to 1 + speed."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(speed)))


def _read_at_speed(recording: Recording, start: int, size: int, speed: float) -> Waveform:
    """Read part of a recording, played `speed` times as fast."""
    part = recording.read(start, size)
    return part if speed == 1 else soxr.resample(part, speed, 1.0).astype(np.float32, copy=False)


def _add_reverb(clip: Waveform, sampling_rate: int, rng: np.random.Generator) -> Waveform:
    """Add noise that decays exponentially, the usual model of late reverberation."""
    decay_s = rng.uniform(*_REVERB_S)
    # An amplitude of 10^-3 is 60 dB down.
    time = np.arange(1, int(decay_s * sampling_rate)) / sampling_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay_s)
    tail *= 10 ** (-rng.uniform(*_DIRECT_DB) / 20) / np.linalg.norm(tail)
    size = len(clip) + len(tail)
    impulse_response = np.concatenate([[1.0], tail])
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(impulse_response, size), size)
    return wet[: len(clip)].astype(np.float32)


def _tilt(clip: Waveform, sampling_rate: int, tilt_db: float) -> Waveform:
    """Tilt the spectrum linearly over octaves: -tilt_db up to 60 Hz, +tilt_db at the highest frequency."""
    frequency = np.fft.rfftfreq(len(clip), 1 / sampling_rate).clip(min=60)
    position = np.log2(frequency / 60) / np.log2(sampling_rate / 2 / 60)
    gain = 10 ** (tilt_db * (2 * position - 1) / 20)
    return np.fft.irfft(np.fft.rfft(clip) * gain, len(clip)).astype(np.float32)
