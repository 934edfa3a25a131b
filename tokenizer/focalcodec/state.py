"""What a causal model remembers between two chunks. B batch, T frames, D width, H heads."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class StreamState:
    """Left contexts of every causal module that a stream has passed through, for B streams at their own positions.

    A module is its own key, so a state serves any model and grows as modules are met. Offline use of a causal model is
    one call with a new state.
    """

    batch_size: int
    position: Tensor  # (B,) frames seen since the stream began
    ended: Tensor  # (B,) whether a chunk that was not whole has closed the stream
    contexts: dict[nn.Module, Tensor] = field(default_factory=dict)  # (B, size, D) last inputs of a convolution
    begun: dict[nn.Module, Tensor] = field(default_factory=dict)  # (B,) whether that context holds real frames
    key_values: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (B, H, <= window, D / H) each

    @classmethod
    def new(cls, batch_size: int, device: torch.device | str = "cpu") -> "StreamState":
        """Streams at their beginning."""
        position = torch.zeros(batch_size, dtype=torch.long, device=device)
        return cls(batch_size, position, ended=position.bool())

    def extend(self, module: nn.Module, x: Tensor, size: int, zeros: bool = False) -> Tensor:
        """Put the last `size` frames that `module` saw in front of x (B, T, D).

        A stream that begins gets copies of its own first frame, or zeros if `zeros`.
        """
        if size == 0:
            return x
        first = x[:, :1].expand(-1, size, -1)
        start = torch.zeros_like(first) if zeros else first
        if module in self.contexts:
            begun = self.begun[module][:, None, None]
            context = torch.where(begun, self.contexts[module], start)
        else:
            context = start
        extended = torch.cat([context, x], dim=1)
        self.contexts[module] = extended[:, -size:].clone()
        self.begun[module] = torch.ones(self.batch_size, dtype=torch.bool, device=x.device)
        return extended

    def reset(self, items: Tensor | None = None) -> None:
        """Begin the given streams again ((B,) bool; all of them by default); the others go on untouched."""
        if items is None:
            items = torch.ones(self.batch_size, dtype=torch.bool)
        items = items.to(self.position.device)
        self.position = self.position.masked_fill(items, 0)
        self.ended = self.ended & ~items
        self.begun = {module: begun & ~items for module, begun in self.begun.items()}
