"""The graphs of a codec and of a language model, as torch modules that take and return plain tensors.

One item at a time, without a batch axis. T samples, N token frames or ids, P cached positions, V vocabulary size, H
heads of keys and values, D their width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from ...lm.decoding import CACHE
from ...tokenizer.focalcodec.layers import StreamState
from ...tokenizer.focalcodec.modeling import FocalCodecModel


class CodecEncoder(nn.Module):
    """Samples (T,) -> codes (N,). That of a causal codec also takes a state and returns the next one."""

    def __init__(self, codec: FocalCodecModel) -> None:
        super().__init__()
        self.codec = codec
        self.state = CodecState(codec)

    def forward(self, samples: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state = self.state.unflatten(tensors)
        latents = self.codec.compressor(self.codec.encoder(samples[None], None, state), None, state)[0]
        # ONNX shifts no signed integers, so the bits are multiplied by their values.
        codes = ((latents > 0).long() * self.state.bit_values).sum(-1)
        return codes, *self.state.flatten(state)


class CodecDecoder(nn.Module):
    """Codes (N,) -> samples (T,). That of a causal codec also takes a state and returns the next one."""

    def __init__(self, codec: FocalCodecModel) -> None:
        super().__init__()
        self.codec = codec
        self.state = CodecState(codec)

    def forward(self, codes: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state = self.state.unflatten(tensors)
        bits = torch.div(codes[:, None], self.state.bit_values, rounding_mode="floor") % 2
        scale = self.codec.quantizer.scale
        latents = bits.to(torch.float32) * (2 * scale) - scale
        samples = self.codec.decoder(self.codec.decompressor(latents[None], None, state), None, state)[0]
        return samples, *self.state.flatten(state)


class CodecState:
    """The state of a causal codec as a flat list of tensors.

    The first tensor (1,) tells whether the stream has begun, the second (1,) its position in frames. The contexts of
    the convolutions follow, and then the cached keys and values, which are empty at the start and grow to the window.
    """

    growing_axis = 2  # of cached keys and values (1, H, P, D)

    def __init__(self, codec: FocalCodecModel) -> None:
        self.causal = codec.config.causal
        self.bit_values = 2 ** torch.arange(codec.quantizer.bits - 1, -1, -1)
        self.modules: list[nn.Module] = []
        self.cached_modules: list[nn.Module] = []

    def names(self) -> list[str]:
        """Return the names of the tensors, after `flatten` has seen a state."""
        if not self.causal:
            return []
        names = ["begun", "position"]
        names += [f"context_{i}" for i in range(len(self.modules))]
        names += [f"cache_{i}" for i in range(2 * len(self.cached_modules))]
        return names

    def unflatten(self, tensors: Sequence[Tensor]) -> StreamState | None:
        """Make the state that the layers use; without tensors, that of a stream that has not begun."""
        if not self.causal:
            return None
        state = StreamState.new(1)
        if not tensors:
            return state
        begun, state.position, *rest = tensors
        for module in self.modules:
            state.contexts[module] = rest.pop(0)
            state.begun[module] = begun
        for module in self.cached_modules:
            state.key_values[module] = (rest.pop(0), rest.pop(0))
        return state

    def flatten(self, state: StreamState | None) -> list[Tensor]:
        """Return the tensors of a state."""
        if state is None:
            return []
        self.modules = list(state.contexts)
        self.cached_modules = list(state.key_values)
        tensors = [torch.ones(1, dtype=torch.bool), state.position]
        tensors += state.contexts.values()
        for key, value in state.key_values.values():
            tensors += [key, value]
        return tensors


class LanguageModel(nn.Module):
    """Ids (N,) and the cache of those before them (P, layers, 2, H, D) -> logits (V,) of the next id, and the cache
    of the new ids (N, layers, 2, H, D).

    Positions come first in the cache, so that a program appends to it without moving what it holds.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        past: Any = DynamicCache()
        for layer in range(cache.shape[1]):
            keys_values = cache[:, layer].permute(1, 2, 0, 3)[:, None]  # (2, 1, H, P, D)
            past.update(keys_values[0], keys_values[1], layer)
        P = cache.shape[0]
        positions = torch.arange(P, P + ids.shape[0])
        mask = torch.arange(P + ids.shape[0]) <= positions[:, None]
        arguments = {CACHE: past, "position_ids": positions[None], "attention_mask": mask[None, None]}
        output = self.model(ids[None], use_cache=True, logits_to_keep=1, **arguments)
        layers = []
        for layer in getattr(output, CACHE).layers:
            keys_values = torch.stack([layer.keys[0, :, P:], layer.values[0, :, P:]])
            layers.append(keys_values.permute(2, 0, 1, 3))
        return output.logits[0, -1], torch.stack(layers, dim=1)


def cache_shape(model: PreTrainedModel) -> tuple[int, int, int, int]:
    """Return the shape of the cache of one position: layers, 2, H, D.

    Raises:
        ValueError: The layers of the model keep different things.
    """
    output = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True)
    layers = getattr(output, CACHE).layers
    shapes = set()
    for layer in layers:
        shapes.add((tuple(layer.keys.shape), tuple(layer.values.shape)))
    (keys, values), *others = shapes
    attention = getattr(model.config, "layer_types", None) or ["full_attention"]
    if others or keys != values or set(attention) != {"full_attention"}:
        raise ValueError(
            f"{type(model).__name__} keeps different things in its layers, and the graphs need one kind of cache: "
            "export a model with full attention in every layer, such as Llama or Qwen"
        )
    return len(layers), 2, keys[1], keys[3]
