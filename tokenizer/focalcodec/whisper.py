"""The first layers of Whisper's encoder (Radford et al., 2022, arXiv 2212.04356) as FocalCodec's encoder.

Whisper pads every signal to 30 s. Here the padding is masked, so that the features of an item depend on its samples
only. Parameters have the names of `WhisperEncoder` in transformers.

B batch, T frames, D width, H heads; samples are at 16 kHz.
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from transformers.utils import cached_file

from .checkpoint import read_json
from .layers import StreamState, full_precision, length_mask, zero_padding
from .parts import WhisperConfig

SAMPLING_RATE = 16000
_N_FFT = 400
_MEL_HOP = 160


class WhisperEncoder(nn.Module):
    """Waveform (B, T_samples) -> standardized features (B, T, D) at 50 Hz.

    The dimensions of Whisper's features differ much in scale, so each is shifted by `mean` and divided by `std`. A
    signal of more than `max_frames` is encoded in windows that overlap, because there are no more positions.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.bands, config.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_frames, config.dim)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("std", torch.ones(config.dim))

    def load_whisper(self, source: str | Path) -> None:
        """Load the first layers and the statistics of their features from a folder of scripts/whisper_weights.py.

        Raises:
            OSError: The folder does not exist.
            ValueError: It is not a Whisper model, has other sizes or fewer layers, or no statistics.
        """
        fields, tensors = read_whisper(source)
        if fields["encoder_layers"] < self.config.num_layers:
            raise ValueError(
                f"encoder.num_layers is {self.config.num_layers}, but {source} has {fields['encoder_layers']} layers"
            )
        if "mean" not in tensors:
            raise ValueError(
                f"{source} has no statistics of Whisper's features: write a folder that has them with python "
                "scripts/whisper_weights.py SOURCE FOLDER --speech CORPUS, and name it"
            )
        for name in ("mean", "std"):
            tensors[name] = tensors[name][self.config.num_layers]
        own = {name: tensors[name] for name in self.state_dict() if name in tensors}
        try:
            self.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{source} does not fit {self.config}: {error}") from None

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of frames of signals of (B,) samples, rounded up so that they cover every sample."""
        return -(-lengths // self.config.hop_length)

    @full_precision
    def forward(self, waveform: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """waveform (B, T_samples), lengths (B,) in samples -> (B, T, D); frames of padding are zero."""
        assert state is None, "Whisper is not causal"
        B, size = waveform.shape
        frames = -(-size // self.config.hop_length)
        # A graph for another program has one window.
        if torch.compiler.is_compiling() or frames <= self.config.max_frames:
            return self._encode(waveform, lengths)
        # A window yields its middle; the first one also its beginning, and the last one of an item also its end. So the
        # windows of an item do not depend on the length of the others.
        context = self.config.max_frames // 10
        step = self.config.max_frames - 2 * context
        hop = self.config.hop_length
        if lengths is None:
            lengths = torch.full((B,), size, device=waveform.device)
        features = waveform.new_zeros(B, frames, self.config.dim)
        num_windows = 1 + -(-(self.num_frames(lengths) - self.config.max_frames).clamp(min=0) // step)
        for window in range(int(num_windows.max())):
            start = window * step
            items = (num_windows > window).nonzero()[:, 0]
            end = min(start + self.config.max_frames, frames)
            encoded = self._encode(
                waveform[items, start * hop : end * hop],
                (lengths[items] - start * hop).clamp(max=(end - start) * hop),
            )
            # The frames of later windows are overwritten by these.
            first = context if window else 0
            features[items, start + first : end] = encoded[:, first:]
        return features

    def _encode(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        """Compute the features of at most `max_frames`."""
        for x in self.hidden_states(waveform, lengths):
            last = x
        features = (last - self.mean) / self.std
        if lengths is None:
            return features
        return zero_padding(features, length_mask(self.num_frames(lengths), features.shape[1]))

    def hidden_states(self, waveform: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Return the input of the first layer and the output of each, (B, T, D), not standardized."""
        mel = log_mel(waveform, lengths, self.config.bands).to(waveform.dtype)
        mask = None
        mel_mask = None
        if lengths is not None:
            frames = self.num_frames(lengths)
            mask = length_mask(frames, mel.shape[1] // 2)
            mel_mask = length_mask(2 * frames, mel.shape[1])
        x = F.gelu(self.conv1(zero_padding(mel, mel_mask).mT).mT)
        x = F.gelu(self.conv2(zero_padding(x, mel_mask).mT).mT)
        states = [x + self.embed_positions.weight[: x.shape[1]]]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states


class EncoderLayer(nn.Module):
    """Attention and a feed-forward layer, each with a norm before it and a residual."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.self_attn = Attention(config)
        self.final_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Attention(nn.Module):
    """Self-attention over all real frames."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.k_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        B, T, D = x.shape
        query = self._heads(self.q_proj(x) * (D // self.num_heads) ** -0.5)
        visible = None if mask is None else mask[:, None, None]
        attended = F.scaled_dot_product_attention(
            query, self._heads(self.k_proj(x)), self._heads(self.v_proj(x)), attn_mask=visible, scale=1.0
        )
        return self.out_proj(attended.transpose(1, 2).reshape(B, T, D))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, D / H)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def log_mel(waveform: Tensor, lengths: Tensor | None, bands: int) -> Tensor:
    """Compute Whisper's log-mel frames: power spectrum, 8 decades below the maximum of the item, scaled.

    As in Whisper, the beginning is reflected and the end is followed by zeros.

    Args:
        waveform: (B, T) samples.
        lengths: (B,) number of real samples; None if no item is padded.
        bands: number of mel bands.

    Returns:
        (B, 2 ceil(T / 320), bands) float32.
    """
    waveform = waveform.float()
    if lengths is not None:
        waveform = zero_padding(waveform[..., None], length_mask(lengths, waveform.shape[1]))[..., 0]
    # Not -(-T // hop): division in ONNX rounds toward zero.
    size = (waveform.shape[1] + 2 * _MEL_HOP - 1) // (2 * _MEL_HOP) * 2 * _MEL_HOP
    waveform = F.pad(waveform, (0, size - waveform.shape[1] + _N_FFT // 2))
    waveform = F.pad(waveform, (_N_FFT // 2, 0), mode="reflect")
    window = torch.hann_window(_N_FFT, device=waveform.device)
    spectrum = torch.stft(waveform, _N_FFT, _MEL_HOP, window=window, center=False, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    mel = (_filters(bands).to(waveform.device).T @ power).clamp(min=1e-10).log10().mT
    # Frames of padding beyond the item are not louder than its own.
    floor = mel.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(mel, floor) + 4.0) / 4.0


@functools.cache
def _filters(bands: int) -> Tensor:
    """Compute the mel filters, (201, bands)."""
    filters = mel_filter_bank(
        1 + _N_FFT // 2, bands, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters).float()


def read_whisper(source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the encoder of a Whisper checkpoint in the layout of transformers.

    Args:
        source: folder or hub id.

    Returns:
        The fields of config.json, and tensors in float32: the weights by their names in `WhisperEncoder`, and where
        scripts/whisper_weights.py wrote the folder, "mean" and "std" (1 + layers, D) of the features of each depth.

    Raises:
        OSError: The source does not exist.
        ValueError: It is not a Whisper model.
    """
    paths = []
    for name in ("config.json", "model.safetensors"):
        path: Any = Path(source) / name
        if not path.is_file():
            path = cached_file(str(source), name)
        paths.append(path)
    config = read_json(paths[0])
    if config.get("model_type") != "whisper":
        raise ValueError(
            f"{source} is not a Whisper model (model_type {config.get('model_type')!r}): name openai/whisper-base, or "
            "a folder that scripts/whisper_weights.py wrote"
        )
    tensors = {}
    for key, tensor in load_file(paths[1]).items():
        prefix, _, name = key.removeprefix("model.").partition(".")
        if prefix in ("encoder", "features"):
            tensors[name] = tensor.float()
    return config, tensors


def is_whisper(source: str | Path) -> bool:
    """Return whether a source is a Whisper checkpoint: a folder whose config.json says so, or a hub id of OpenAI's."""
    path = Path(source) / "config.json"
    if path.is_file():
        return read_json(path).get("model_type") == "whisper"
    return str(source).startswith("openai/whisper")
