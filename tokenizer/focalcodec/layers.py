"""Masks, the state of causal layers, and the layers that several parts of FocalCodec share.

B batch, T frames, D feature width, H heads. Masks are (B, T) bool, True where a frame is real.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Decorates `forward` of every module that tokens depend on. Tokens are the signs of small numbers, but by default
# PyTorch lets a GPU round the inputs of float32 convolutions to 10 bits (TF32). The error of 1e-3 depends on the shape
# of the batch.
full_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Convert lengths (B,) to a mask (B, size) that is True inside each item."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padding of (B, T, D), so that a convolution sees the same zeros as after the end of a single item."""
    if mask is None:
        return x
    return x.masked_fill(~mask[..., None], 0.0)


def pad_same(x: Tensor, width: int) -> Tensor:
    """Pad (B, T, D) with `width` zero frames, half of them on each side, so that a convolution keeps the length."""
    return F.pad(x, (0, 0, width // 2, width - width // 2))


@dataclass
class StreamState:
    """The left context of every causal module, for B streams.

    Modules are the keys, and each adds its context when it is first called, so the state depends on no model. Offline
    use of a causal model is a single call with a new state.
    """

    batch_size: int
    position: Tensor  # (B,) frames since the start of the stream
    ended: Tensor  # (B,) whether an incomplete chunk has ended the stream
    contexts: dict[nn.Module, Tensor] = field(default_factory=dict)  # (B, size, D) last inputs of a convolution
    begun: dict[nn.Module, Tensor] = field(default_factory=dict)  # (B,) whether that context holds real frames
    key_values: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (B, H, <= window, D / H) each

    @classmethod
    def new(cls, batch_size: int, device: torch.device | str = "cpu") -> "StreamState":
        """Make the state of streams that have not started."""
        position = torch.zeros(batch_size, dtype=torch.long, device=device)
        return cls(batch_size, position, ended=position.bool())

    def extend(self, module: nn.Module, x: Tensor, size: int, zeros: bool = False) -> Tensor:
        """Prepend the last `size` frames that `module` saw to x (B, T, D).

        At the start of a stream, these are copies of its first frame, or zeros if `zeros` is True.
        """
        if size == 0:
            return x
        # The streams of a batch may have started at different times, so each has its own left context.
        first = x[:, :1].expand(-1, size, -1)
        context = torch.zeros_like(first) if zeros else first
        if module in self.contexts:
            begun = self.begun[module][:, None, None]
            context = torch.where(begun, self.contexts[module], context)
        extended = torch.cat([context, x], dim=1)
        self.contexts[module] = extended[:, -size:].clone()
        self.begun[module] = torch.ones(self.batch_size, dtype=torch.bool, device=x.device)
        return extended

    def reset(self, items: Tensor | None = None) -> None:
        """Restart the streams that `items` (B,) bool marks, by default all. The others continue unchanged."""
        if items is None:
            items = torch.ones(self.batch_size, dtype=torch.bool)
        items = items.to(self.position.device)
        self.position = self.position.masked_fill(items, 0)
        self.ended = self.ended & ~items
        # Contexts and keys of a restarted stream stay in place: `begun` and `position` hide them.
        self.begun = {module: begun & ~items for module, begun in self.begun.items()}


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, with one alpha per channel (Ziyin et al., 2020, arXiv 2006.08195)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        alpha = self.alpha[:, 0]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)


def make_activation(name: str, dim: int) -> nn.Module:
    """Make the activation before or after each scaling of a stack: "snake" or "leaky_relu"."""
    if name == "snake":
        return Snake(dim)
    assert name == "leaky_relu", "the config allows no other name"
    return nn.LeakyReLU(0.1)  # the slope of HiFi-GAN; the FocalCodec paper does not state one


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        return self.out_proj(F.gelu(self.in_proj(x)))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and an inverted bottleneck, with a layer scale (Liu et al., 2022, arXiv 2201.03545)."""

    def __init__(self, dim: int, ffn_dim: int, kernel_size: int, layerscale_init: float) -> None:
        super().__init__()
        self.layerscale_init = layerscale_init
        self.dwconv = nn.Conv1d(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, ffn_dim)
        self.pwconv2 = nn.Linear(ffn_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layerscale_init))

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, dim), mask (B, T) True where a frame is real -> (B, T, dim); with a state, it is causal."""
        y = self.norm(convolve_same(self.dwconv, x, mask, state))
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))


def convolve_same(conv: nn.Conv1d, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
    """Convolve (B, T, D) and keep its length: zeros on both sides, or with a state the frames before it."""
    width = (conv.kernel_size[0] - 1) * conv.dilation[0]
    if state is None:
        x = pad_same(zero_padding(x, mask), width)
    else:
        # The padding of a causal convolution is all on the left.
        x = state.extend(conv, x, width, zeros=True)
    return convolve(conv, x)


def convolve(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Convolve (B, T, D) -> (B, T', D'), without padding.

    On a CPU, the convolutions of torch take channels first: they copy their input, and leave a transposed output that
    the next layer copies again. Products of matrices, and depthwise convolutions in two dimensions, need no copy.
    """
    # A graph for another program keeps the convolution.
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return conv(x.mT).mT
    # More products than two or so would add up their results slower than a convolution.
    if conv.groups == 1 and conv.kernel_size[0] <= 2 * conv.stride[0]:
        return _convolve_by_products(conv, x)
    if conv.groups == conv.in_channels:
        images = x[:, None].permute(0, 3, 1, 2)  # (B, D, 1, T), as a view
        weight = conv.weight[:, :, None]
        y = F.conv2d(images, weight, conv.bias, (1, conv.stride[0]), 0, (1, conv.dilation[0]), conv.groups)
        return y[:, :, 0].mT
    return conv(x.mT).mT


def _convolve_by_products(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Convolve (B, T, D) -> (B, T', D'), as a sum of products for `stride` neighboring taps each."""
    B, T, D = x.shape
    kernel = conv.kernel_size[0]
    stride = conv.stride[0]
    frames = (T - kernel) // stride + 1
    samples = x.flatten(1)
    y = None
    for tap in range(0, kernel, stride):
        width = min(stride, kernel - tap)
        # The inputs of all frames do not overlap, so these are the rows of a matrix, as a view of a single item.
        inputs = samples[:, tap * D :].unfold(1, width * D, stride * D)[:, :frames].reshape(B * frames, width * D)
        weight = conv.weight[:, :, tap : tap + width].mT.reshape(-1, width * D)
        y = F.linear(inputs, weight, conv.bias) if y is None else y.addmm_(inputs, weight.T)
    assert y is not None, "a kernel has one tap or more"
    return y.view(B, frames, -1)
