"""Decoders: run a causal LM one id at a time, with a cache.

`prefill` lets a model read a batch of prompts and returns a decoder. A decoder gives logits of the next ids, reads the
ids that were chosen, reads the prompts of rows that join, and drops rows that are finished. `LlamaDecoder` writes the
step of Llama-shaped models out and is several times faster on a CPU; `CausalDecoder` runs every other model.

All rows end at the same column of the cache, so shorter ones are padded on the left. Where a row stands in its own
sequence is its position, which does not depend on the padding.

B rows, L prompt length, H hidden width, V vocabulary size, d width of an attention head.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

_LLAMA_SHAPED = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Rotary embeddings whose tables do not depend on the length so far.
_STATIC_ROPES = ("default", "linear", "llama3", "yarn")
# The name of the cache in transformers: "cache" since 5.24, "past_key_values" before.
CACHE = next(f.name for f in fields(BaseModelOutputWithPast) if f.name in ("cache", "past_key_values"))
# Positions that the cache grows by.
_CACHE_GROWTH = 1024


@dataclass(frozen=True)
class PromptBatch:
    """Embedded prompts of a batch, padded on the left.

    Args:
        embeddings: (B, L, H).
        mask: (B, L) int64, 0 at padding.
        positions: (B, L) int64.
        restart_ids: generated ids whose position is 0.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    restart_ids: frozenset[int] = frozenset()


def _positions_of(ids: Sequence[int], next_position: Tensor, restart_ids: frozenset[int]) -> Tensor:
    """Return the positions (B,) of the chosen ids: the next ones, or 0 for restart ids."""
    if restart_ids.isdisjoint(ids):
        return next_position
    restarts = torch.tensor([i in restart_ids for i in ids], device=next_position.device)
    return next_position.masked_fill(restarts, 0)


def prefill(model: PreTrainedModel, prompts: PromptBatch, max_new_ids: int) -> "LlamaDecoder | CausalDecoder":
    """Let a causal LM read the prompts, and return the decoder that continues them.

    Args:
        model: a causal LM.
        prompts: of the whole batch.
        max_new_ids: maximum number of ids that will follow.
    """
    if is_llama_shaped(model):
        return LlamaDecoder(model, prompts, max_new_ids)
    return CausalDecoder(model, prompts)


def is_llama_shaped(model: PreTrainedModel) -> bool:
    """Return whether `LlamaDecoder` computes what a model does; not with adapters, quantized or sharded weights."""
    if type(model).__name__ not in _LLAMA_SHAPED:
        return False
    config: Any = model.config
    if config.hidden_act != "silu" or config.rope_parameters["rope_type"] not in _STATIC_ROPES:
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    # The exact types: a subclass, such as an adapter, may compute something else.
    if type(model.get_input_embeddings()) is not nn.Embedding:
        return False
    for name, module in model.named_modules():
        if name.endswith(("_proj", "lm_head")) and type(module) is not nn.Linear:
            return False
    return {parameter.device for parameter in model.parameters()} == {model.device}


class CausalDecoder:
    """Decoder of any causal LM of transformers, with the forward and the cache of the model."""

    def __init__(self, model: PreTrainedModel, prompts: PromptBatch) -> None:
        self._model = model
        self._restart_ids = prompts.restart_ids
        self._forward_arguments = inspect.signature(model.forward).parameters
        self._mask = prompts.mask  # (B, columns of the cache)
        self._cache: Any = None
        self._logits: Tensor  # (B, V)
        self._run(prompts.positions, inputs_embeds=prompts.embeddings)
        self._next_position = prompts.positions[:, -1] + 1  # (B,)

    def join(self, prompts: PromptBatch, max_new_ids: int) -> None:
        """Read more prompts, whose rows follow the present ones.

        Args:
            prompts: of the new rows.
            max_new_ids: maximum number of ids that will follow them; this decoder does not need it.

        Raises:
            ValueError: the model keeps something else than keys and values, which cannot be padded.
        """
        if not self._has_columns:
            raise ValueError(
                f"{type(self._model).__name__} keeps more than keys and values of what it has read, so prompts cannot "
                "join its batch: call generate instead"
            )
        others = CausalDecoder(self._model, prompts)
        self._mask = _join_rows(self._mask[..., None], others._mask[..., None], 0)[..., 0]
        for layer, other in zip(self._cache.layers, others._cache.layers, strict=True):
            layer.keys = _join_rows(layer.keys, other.keys, 0)
            layer.values = _join_rows(layer.values, other.values, 0)
            if layer.is_sliding:
                layer.cumulative_length = self._mask.shape[1]
        self._next_position = torch.cat([self._next_position, others._next_position])
        self._logits = torch.cat([self._logits, others._logits])

    def step(self, ids: Sequence[int]) -> None:
        """Read the id that was chosen for each row."""
        position = _positions_of(ids, self._next_position, self._restart_ids)
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._run(position[:, None], input_ids=torch.tensor(ids, device=self._mask.device)[:, None])
        self._next_position = position + 1

    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """Return logits (len(rows), stop - start) of the ids from `start` up to `stop`, exclusive."""
        return self._logits[list(rows), start:stop]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns that are padding in all rows that stay."""
        index = torch.tensor(rows, dtype=torch.long, device=self._mask.device)
        self._mask = self._mask[index]
        self._next_position = self._next_position[index]
        self._logits = self._logits[index]
        self._cache.batch_select_indices(index)
        if not self._has_columns:
            return
        num_padding = int(self._mask.argmax(1).min()) if rows else self._mask.shape[1]
        self._mask = self._mask[:, num_padding:]
        for layer in self._cache.layers:
            num_columns = self._mask.shape[1]
            if layer.is_sliding:
                layer.cumulative_length = num_columns
                num_columns = min(num_columns, layer.sliding_window - 1)
            start = layer.keys.shape[-2] - num_columns
            layer.keys = layer.keys[:, :, start:]
            layer.values = layer.values[:, :, start:]

    @property
    def _has_columns(self) -> bool:
        """Whether the whole cache is keys and values in columns, which can be padded and dropped."""
        return {type(layer) for layer in self._cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}

    def _run(self, positions: Tensor, **inputs: Tensor) -> None:
        arguments: dict[str, Any] = {**inputs, "attention_mask": self._mask, "use_cache": True, CACHE: self._cache}
        # Not every model takes these two.
        if "position_ids" in self._forward_arguments:
            arguments["position_ids"] = positions
        if "logits_to_keep" in self._forward_arguments:
            arguments["logits_to_keep"] = 1
        output = self._model(**arguments)
        self._cache = getattr(output, CACHE)
        self._logits = output.logits[:, -1]


@dataclass(frozen=True)
class _Projection:
    """One or several linear layers with the same input, whose outputs are concatenated.

    Args:
        matrices: (in, out) each; on a CPU a single one.
        bias: of all outputs.
        packed: the same on a CPU, in half precision, instead of `matrices`; see `_pack`.
    """

    matrices: list[Tensor]
    bias: Tensor | None
    packed: Any = None

    @classmethod
    def join(cls, *linears: nn.Linear, pack: bool) -> "_Projection":
        """Join linear layers that read the same input; `pack` as in `from_weights`."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for linear in linears:
            weights.append(linear.weight)
            if linear.bias is not None:
                biases.append(linear.bias)
        return cls.from_weights(weights, torch.cat(biases) if biases else None, pack)

    @classmethod
    def from_weights(cls, weights: list[Tensor], bias: Tensor | None, pack: bool) -> "_Projection":
        """Join weights (out, in) of linear layers, which are copied on a CPU, in half precision if `pack` allows it."""
        if weights[0].device.type != "cpu":
            return cls([weight.t() for weight in weights], bias)
        weight = torch.cat(weights)
        packed = _pack(weight) if pack else None
        if packed is not None:
            return cls([], bias, packed)
        return cls([weight.t().contiguous()], bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Project (B, in) to (B, out)."""
        if self.packed is not None:
            y = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        elif len(self.matrices) == 1:
            y = x @ self.matrices[0]
        else:
            y = torch.cat([x @ matrix for matrix in self.matrices], dim=-1)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class _Layer:
    """Weights of one transformer layer."""

    norm: Tensor
    qkv: _Projection
    qk_norm: Tensor | None  # (heads of queries and keys, d)
    out: _Projection
    mlp_norm: Tensor
    gate_up: _Projection
    down: _Projection

    @classmethod
    def from_model(cls, layer: Any, pack: bool) -> "_Layer":
        """Take the weights of a layer of transformers; `pack` as in `_Projection.from_weights`."""
        attention = layer.self_attn
        mlp = layer.mlp
        qk_norm = None
        if hasattr(attention, "q_norm"):  # Qwen3
            d = attention.head_dim
            q_norm = attention.q_norm.weight.expand(attention.q_proj.out_features // d, d)
            k_norm = attention.k_norm.weight.expand(attention.k_proj.out_features // d, d)
            qk_norm = torch.cat([q_norm, k_norm])
        return cls(
            norm=layer.input_layernorm.weight,
            qkv=_Projection.join(attention.q_proj, attention.k_proj, attention.v_proj, pack=pack),
            qk_norm=qk_norm,
            out=_Projection.join(attention.o_proj, pack=pack),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=_Projection.join(mlp.gate_proj, mlp.up_proj, pack=pack),
            down=_Projection.join(mlp.down_proj, pack=pack),
        )


class LlamaDecoder:
    """Decoder of Llama, Qwen2 and Qwen3, with a preallocated cache and a step of few operations.

    The forward of transformers reads the prompts. A step is written out: joined projections, one rotation for queries
    and keys, and the head only for the ids that are allowed. On a CPU the matrices are copied once, and for a batch
    stored in half precision if that loses nothing; on a GPU they are those of the model.
    """

    def __init__(self, model: PreTrainedModel, prompts: PromptBatch, max_new_ids: int) -> None:
        body: Any = model.model
        self._body = body
        self._restart_ids = prompts.restart_ids
        self._embedding = body.embed_tokens.weight
        self._head = model.lm_head
        self._norm = body.norm.weight
        self._eps = body.norm.variance_epsilon
        # A single row is not faster by it.
        self._pack = len(prompts.mask) > 1
        self._layers = [_Layer.from_model(layer, self._pack) for layer in body.layers]
        # The head for a range of ids, copied when it is first needed.
        self._heads: dict[tuple[int, int], _Projection] = {}
        self._rotations = self._rotate(0)
        self._read(prompts, max_new_ids)

    def _read(self, prompts: PromptBatch, max_new_ids: int) -> None:
        """Let the model read the prompts, whose rows replace the present ones."""
        length = prompts.mask.shape[1]
        output = self._body(
            inputs_embeds=prompts.embeddings,
            attention_mask=prompts.mask,
            position_ids=prompts.positions,
            use_cache=True,
        )
        self._hidden = output.last_hidden_state[:, -1]  # (B, H)
        self._length = length  # of the cache, in columns
        self._num_padding = (prompts.mask == 0).sum(1)  # (B,)
        self._is_padded = bool(self._num_padding.any())
        self._next_position = prompts.positions[:, -1] + 1  # (B,)
        layer_caches = []
        for layer in getattr(output, CACHE).layers:
            layer_caches.append(torch.stack([layer.keys, layer.values]))
        # (layers, 2, B, key heads, columns, d)
        self._cache = _grow(torch.stack(layer_caches), min(max_new_ids, _CACHE_GROWTH))
        if length + max_new_ids > len(self._rotations):
            self._rotations = self._rotate(length + max_new_ids)

    def _rotate(self, num_positions: int) -> Tensor:
        """Return cosine and sine of every position (positions, 2, 1, d)."""
        positions = torch.arange(num_positions, device=self._embedding.device)
        cos, sin = self._body.rotary_emb(self._embedding, positions[None])
        rotations = torch.stack([cos[0], sin[0]], dim=1)[:, :, None]
        # With this sign a rotation is a roll by half a head.
        rotations[:, 1, :, : cos.shape[-1] // 2] *= -1
        return rotations

    @torch.inference_mode()
    def join(self, prompts: PromptBatch, max_new_ids: int) -> None:
        """Read more prompts, whose rows follow the present ones.

        Args:
            prompts: of the new rows.
            max_new_ids: maximum number of ids that will follow them.
        """
        hidden = self._hidden
        next_position = self._next_position
        num_padding = self._num_padding
        cache = self._cache[..., : self._length, :]
        self._read(prompts, max_new_ids)
        new_cache = self._cache[..., : self._length, :]
        width = max(cache.shape[-2], self._length)
        self._hidden = torch.cat([hidden, self._hidden])
        self._next_position = torch.cat([next_position, self._next_position])
        self._num_padding = torch.cat(
            [num_padding + (width - cache.shape[-2]), self._num_padding + (width - self._length)]
        )
        self._is_padded = bool(self._num_padding.any())
        self._cache = _join_rows(cache, new_cache, 2, min(max_new_ids, _CACHE_GROWTH))
        self._length = width

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Read the id that was chosen for each row."""
        if self._length == self._cache.shape[-2]:
            self._cache = _grow(self._cache, _CACHE_GROWTH)
        x = F.embedding(torch.tensor(ids, device=self._embedding.device), self._embedding)
        position = _positions_of(ids, self._next_position, self._restart_ids)
        cos, sin = self._rotations[position].unbind(1)
        mask = None
        if self._is_padded:
            columns = torch.arange(self._length + 1, device=position.device)
            mask = (columns >= self._num_padding[:, None])[:, None, None]  # (B, 1, 1, columns)
        for layer, cache in zip(self._layers, self._cache, strict=True):
            x = self._attend(x, layer, cache, cos, sin, mask)
            h = F.rms_norm(x, x.shape[1:], layer.mlp_norm, self._eps)
            gate, up = layer.gate_up(h).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        self._hidden = F.rms_norm(x, x.shape[1:], self._norm, self._eps)
        self._length += 1
        self._next_position = position + 1

    def _attend(self, x: Tensor, layer: _Layer, cache: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Run the attention of a layer, (B, H) -> (B, H), and add its keys and values to the cache."""
        B = len(x)
        num_key_heads = cache.shape[2]
        d = cache.shape[-1]
        h = F.rms_norm(x, x.shape[1:], layer.norm, self._eps)
        h = layer.qkv(h).view(B, -1, d)
        qk = h[:, :-num_key_heads]
        v = h[:, -num_key_heads:]
        if layer.qk_norm is not None:
            qk = F.rms_norm(qk, (d,), None, self._eps) * layer.qk_norm
        qk = torch.addcmul(qk * cos, qk.roll(d // 2, -1), sin)
        cache[0, :, :, self._length] = qk[:, -num_key_heads:]
        cache[1, :, :, self._length] = v
        # Heads that share a key are the queries of one attention.
        q = qk[:, :-num_key_heads].reshape(B, num_key_heads, -1, d)
        keys, values = cache[:, :, :, : self._length + 1]
        attended = F.scaled_dot_product_attention(q, keys, values, mask)
        return x + layer.out(attended.reshape(B, -1))

    @torch.inference_mode()
    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """Return logits (len(rows), stop - start) of the ids from `start` up to `stop`, exclusive."""
        if (start, stop) not in self._heads:
            bias = None if self._head.bias is None else self._head.bias[start:stop]
            self._heads[start, stop] = _Projection.from_weights([self._head.weight[start:stop]], bias, self._pack)
        is_all = list(rows) == list(range(len(self._hidden)))
        hidden = self._hidden if is_all else self._hidden[list(rows)]
        return self._heads[start, stop](hidden)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns that are padding in all rows that stay."""
        index = torch.tensor(rows, dtype=torch.long, device=self._next_position.device)
        self._hidden = self._hidden[index]
        self._next_position = self._next_position[index]
        num_padding = self._num_padding[index]
        num_dropped = int(num_padding.min()) if rows else self._length
        self._num_padding = num_padding - num_dropped
        self._is_padded = bool(self._num_padding.any())
        self._cache = self._cache[..., num_dropped:, :][:, :, index]
        self._length -= num_dropped


def _pack(weight: Tensor) -> Any:
    """Store a float32 weight (out, in) in half precision for FBGEMM, or return None if that would change it.

    Checkpoints in half precision, such as those of the packaged models, lose nothing. The products are still added up
    in float32. Batches are decoded 1.3 to 1.6 times as fast, because less memory is read.
    """
    is_available = torch.backends.quantized.engine in ("x86", "fbgemm")
    if not is_available or weight.dtype != torch.float32 or not torch.equal(weight.half().float(), weight):
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), None)


def _grow(cache: Tensor, num_columns: int) -> Tensor:
    """Append uninitialized columns, the last but one dimension."""
    added = cache.new_empty((*cache.shape[:-2], num_columns, cache.shape[-1]))
    return torch.cat([cache, added], dim=-2)


def _join_rows(first: Tensor, second: Tensor, dim: int, room: int = 0) -> Tensor:
    """Join the rows of two caches, padded on the left with zeros to equally many columns.

    Args:
        first: columns are the last but one dimension.
        second: as `first`.
        dim: dimension of the rows.
        room: columns to add on the right.
    """
    width = max(first.shape[-2], second.shape[-2])
    shape = list(first.shape)
    shape[dim] += second.shape[dim]
    shape[-2] = width + room
    joined = first.new_zeros(shape)
    start = 0
    for cache in (first, second):
        rows = joined.narrow(dim, start, cache.shape[dim])
        rows[..., width - cache.shape[-2] : width, :] = cache
        start += cache.shape[dim]
    return joined
