"""Recognizers whose layers serve as a perceptual loss of the codec: the teacher, a small one of letters, and Whisper.

The squared error of features weighs noise as much as consonants. The hidden layers of a recognizer that was trained on
transcripts (by CTC, Graves et al., 2006) amplify what distinguishes words. A codec that preserves them preserves words,
even in recordings without a transcript. (Perceptual losses: Johnson et al., 2016, arXiv 1603.08155.)

B batch, T frames, D width, C characters.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..configs import errors_named, read_json
from ..files import first_not_finite, whole_files
from ..focalcodec.checkpoint import read_safetensors
from ..focalcodec.layers import length_mask, zero_padding
from ..focalcodec.mel import MelEncoder
from ..focalcodec.parts import MelConfig, build_part
from ..focalcodec.whisper import EncoderLayer, WhisperEncoder, read_whisper


@dataclass(frozen=True)
class TeacherConfig:
    """A stack of ConvNeXt-like blocks on log-mel frames. The defaults of the frames are those of `MelConfig`."""

    bands: int = 80
    n_fft: int = 1024
    hop_length: int = 320
    sampling_rate: int = 16000
    mean: float = -5.0
    std: float = 2.5
    dim: int = 256
    num_layers: int = 8
    kernel_size: int = 15
    dropout: float = 0.1
    characters: str = "abcdefghijklmnopqrstuvwxyz' "

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"teacher_model.kernel_size must be odd, found {self.kernel_size}")

    @property
    def mel(self) -> MelConfig:
        """Config of the log-mel frames."""
        return MelConfig(self.bands, self.n_fft, self.hop_length, self.sampling_rate, self.mean, self.std)


class Teacher(nn.Module):
    """Log-mel frames (B, T, bands) -> logits (B, T, 1 + C), where 0 is CTC's blank."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = MelEncoder(config.mel)
        self.in_proj = nn.Conv1d(config.bands, config.dim, 5, padding=2)
        self.layers = nn.ModuleList(TeacherLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.out_proj = nn.Linear(config.dim, 1 + len(config.characters))

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> "Teacher":
        """Build a teacher from the fields of `TeacherConfig`. Unknown fields raise a ValueError."""
        return cls(build_part("teacher_model", values, TeacherConfig))

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Teacher":
        """Load a frozen teacher that `save_pretrained` wrote.

        Raises:
            OSError: The folder holds no teacher.
            ValueError: Its weights are damaged or not finite.
        """
        path = Path(folder) / "teacher.json"
        if not path.is_file():
            raise OSError(f"{folder} has no teacher.json: train one with stage: teacher, and name its RUN/teacher")
        with errors_named(folder):
            teacher = cls.from_config(read_json(path))
            weights = read_safetensors(Path(folder) / "teacher.safetensors")
            broken = first_not_finite(weights)
            if broken is not None:
                raise ValueError(
                    f"{folder} holds a teacher whose training diverged, {broken} is not finite: train another"
                )
            teacher.load_state_dict(weights)
        return teacher.eval().requires_grad_(False)

    def save_pretrained(self, folder: Path) -> None:
        """Write `teacher.json` and `teacher.safetensors`."""
        with whole_files(folder) as temporary:
            weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
            save_file(weights, temporary / "teacher.safetensors")
            (temporary / "teacher.json").write_text(json.dumps(dataclasses.asdict(self.config), indent=1))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """x (B, T, bands), lengths (B,) in frames -> logits, and the output (B, T, D) of every layer."""
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        x = self.in_proj(zero_padding(x, mask).mT).mT
        hidden = []
        for layer in self.layers:
            x = layer(x, mask)
            hidden.append(x)
        return self.out_proj(self.norm(x)), hidden

    def distance(self, decoded: Tensor, original: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Measure the distance of two signals in the layers of the teacher.

        Args:
            decoded: (B, T, bands), through which gradients flow.
            original: (B, T, bands).
            lengths: (B,) in frames.

        Returns:
            The squared distance of the hidden layers, relative to their variance and averaged over layers; and the
            divergence KL(original || decoded) of the output distributions, in nats per frame.
        """
        with torch.no_grad():
            original_logits, original_hidden = self(original, lengths)
        logits, hidden = self(decoded, lengths)
        real = torch.ones(decoded.shape[:2], dtype=torch.bool, device=decoded.device)
        if lengths is not None:
            real = length_mask(lengths, decoded.shape[1])
        errors = []
        for layer, original_layer in zip(hidden, original_hidden, strict=True):
            error = (layer[real] - original_layer[real]).square().mean()
            errors.append(error / original_layer[real].var())
        divergence = F.kl_div(
            logits[real].float().log_softmax(-1),
            original_logits[real].float().log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return torch.stack(errors).mean(), divergence

    def encode_text(self, text: str) -> list[int]:
        """Return the indices of letters, which start at 1 because 0 is the blank. Unknown letters are left out."""
        characters = self.config.characters
        return [characters.index(letter) + 1 for letter in text.lower() if letter in characters]

    def decode(self, logits: Tensor) -> str:
        """Return the text of the best path through logits (T, 1 + C)."""
        best = torch.unique_consecutive(logits.argmax(dim=-1))
        return "".join(self.config.characters[i - 1] for i in best.tolist() if i)


class WhisperJudge(nn.Module):
    """The layers of Whisper's encoder after those of a codec, frozen: they tell what of its features carries words.

    Args:
        encoder: encoder of the codec.
        source: folder of scripts/whisper_weights.py, or hub id, of the same Whisper.

    Raises:
        ValueError: The codec has all layers, or other sizes.
    """

    def __init__(self, encoder: WhisperEncoder, source: str) -> None:
        super().__init__()
        first = encoder.config.num_layers
        fields, tensors = read_whisper(source)
        num_layers = fields["encoder_layers"] - first
        if num_layers < 1:
            raise ValueError(
                f"judge: {source} has {fields['encoder_layers']} layers, and the codec has {first} of them: none is "
                "left to judge; lower encoder.num_layers"
            )
        self.layers = nn.ModuleList(EncoderLayer(encoder.config) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(encoder.config.dim)
        weights = {}
        for name in self.state_dict():
            _, _, rest = name.partition(".")
            source_name = name
            if name.startswith("layers."):
                index, _, rest = rest.partition(".")
                source_name = f"layers.{first + int(index)}.{rest}"
            weights[name] = tensors[source_name]
        self.load_state_dict(weights)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", encoder.mean.clone())
        self.register_buffer("std", encoder.std.clone())
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardized features (B, T, D), mask (B, T) True where a frame is real -> last features (B, T, D)."""
        x = features * self.std + self.mean
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x)

    def distance(self, decoded: Tensor, original: Tensor, lengths: Tensor) -> Tensor:
        """Measure the squared distance of two features (B, T, D) in the last layer, relative to its variance."""
        mask = length_mask(lengths, original.shape[1])
        with torch.no_grad():
            target = self(original, mask)[mask]
        error = self(decoded, mask)[mask] - target
        return error.square().mean() / target.var(dim=0).mean()


class TeacherLayer(nn.Module):
    """Depthwise convolution and a feed-forward layer, with a residual: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        dim = config.dim
        kernel = config.kernel_size
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 3 * dim), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(3 * dim, dim)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        return x + self.feed_forward(self.norm(self.conv(zero_padding(x, mask).mT).mT))
