"""Decoders: run a causal LM one id at a time, with a cache.

`prefill` lets a model read a batch of prompts and returns a decoder. A decoder gives logits of the next ids, reads the
ids that were chosen, and drops rows that are finished. `LlamaDecoder` writes the step of Llama-shaped models out and is
several times faster on a CPU; `CausalDecoder` runs every other model.

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

    def position_of(self, ids: Sequence[int], next_position: Tensor) -> Tensor:
        """Return the positions (B,) of the chosen ids: the next ones, or 0 for restart ids."""
        if self.restart_ids.isdisjoint(ids):
            return next_position
        restarts = torch.tensor([i in self.restart_ids for i in ids], device=next_position.device)
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
        self._prompts = prompts
        self._mask = prompts.mask
        self._cache: Any = None
        self._forward_arguments = inspect.signature(model.forward).parameters
        self._run(prompts.positions, inputs_embeds=prompts.embeddings)
        self._next_position = prompts.positions[:, -1] + 1  # (B,)

    def step(self, ids: Sequence[int]) -> None:
        """Read the id that was chosen for each row."""
        position = self._prompts.position_of(ids, self._next_position)
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._run(position[:, None], input_ids=torch.tensor(ids, device=self._mask.device)[:, None])
        self._next_position = position + 1

    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """Return logits (len(rows), stop - start) of the ids from `start` up to `stop`, exclusive."""
        return self._logits[list(rows), start:stop]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._mask.device)
        self._mask = self._mask[index]
        self._next_position = self._next_position[index]
        self._cache.batch_select_indices(index)

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
    """

    matrices: list[Tensor]
    bias: Tensor | None

    @classmethod
    def join(cls, *linears: nn.Linear) -> "_Projection":
        """Join linear layers that read the same input."""
        matrices: list[Tensor] = []
        biases: list[Tensor] = []
        for linear in linears:
            matrices.append(linear.weight.t())
            if linear.bias is not None:
                biases.append(linear.bias)
        if matrices[0].device.type == "cpu":
            matrices = [_input_major(torch.cat(matrices, dim=1))]
        return cls(matrices, torch.cat(biases) if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        """Project (B, in) to (B, out)."""
        if len(self.matrices) == 1:
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
    def from_model(cls, layer: Any) -> "_Layer":
        """Take the weights of a layer of transformers."""
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
            qkv=_Projection.join(attention.q_proj, attention.k_proj, attention.v_proj),
            qk_norm=qk_norm,
            out=_Projection.join(attention.o_proj),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=_Projection.join(mlp.gate_proj, mlp.up_proj),
            down=_Projection.join(mlp.down_proj),
        )


class LlamaDecoder:
    """Decoder of Llama, Qwen2 and Qwen3, with a preallocated cache and a step of few operations.

    The forward of transformers reads the prompts. A step is written out: joined projections, one rotation for queries
    and keys, and the head only for the ids that are allowed. On a CPU the matrices are copied once, because a product
    with a matrix stored by its inputs takes half of the time; on a GPU they are those of the model.
    """

    def __init__(self, model: PreTrainedModel, prompts: PromptBatch, max_new_ids: int) -> None:
        body: Any = model.model
        mask = prompts.mask
        self._prompts = prompts
        self._embedding = body.embed_tokens.weight
        self._head = model.lm_head
        self._norm = body.norm.weight
        self._eps = body.norm.variance_epsilon
        self._layers = [_Layer.from_model(layer) for layer in body.layers]
        # Columns of the head by range of ids, copied when they are first needed.
        self._head_columns: dict[tuple[int, int], Tensor] = {}

        output = body(
            inputs_embeds=prompts.embeddings, attention_mask=mask, position_ids=prompts.positions, use_cache=True
        )
        self._hidden = output.last_hidden_state[:, -1]  # (B, H)
        self._length = mask.shape[1]  # of the cache, in positions
        self._next_position = prompts.positions[:, -1] + 1  # (B,)
        layer_caches = []
        for layer in getattr(output, CACHE).layers:
            layer_caches.append(torch.stack([layer.keys, layer.values]))
        # (layers, 2, B, key heads, positions, d)
        self._cache = _grow(torch.stack(layer_caches), min(max_new_ids, _CACHE_GROWTH))
        self._mask = None
        if not mask.all():
            # (B, 1, 1, positions), true for all that is still to come
            self._mask = _grow(mask.bool()[:, None, None, :, None], max_new_ids, True)[..., 0]

        positions = torch.arange(mask.shape[1] + max_new_ids, device=mask.device)
        cos, sin = body.rotary_emb(prompts.embeddings, positions[None])
        self._rotations = torch.stack([cos[0], sin[0]], dim=1)[:, :, None]  # (positions, 2, 1, d)
        # With this sign a rotation is a roll by half a head.
        self._rotations[:, 1, :, : cos.shape[-1] // 2] *= -1

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Read the id that was chosen for each row."""
        if self._length == self._cache.shape[-2]:
            self._cache = _grow(self._cache, _CACHE_GROWTH)
        x = F.embedding(torch.tensor(ids, device=self._embedding.device), self._embedding)
        position = self._prompts.position_of(ids, self._next_position)
        cos, sin = self._rotations[position].unbind(1)
        for layer, cache in zip(self._layers, self._cache, strict=True):
            x = self._attend(x, layer, cache, cos, sin)
            h = F.rms_norm(x, x.shape[1:], layer.mlp_norm, self._eps)
            gate, up = layer.gate_up(h).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        self._hidden = F.rms_norm(x, x.shape[1:], self._norm, self._eps)
        self._length += 1
        self._next_position = position + 1

    def _attend(self, x: Tensor, layer: _Layer, cache: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
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
        mask = None if self._mask is None else self._mask[..., : self._length + 1]
        attended = F.scaled_dot_product_attention(q, keys, values, mask)
        return x + layer.out(attended.reshape(B, -1))

    @torch.inference_mode()
    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """Return logits (len(rows), stop - start) of the ids from `start` up to `stop`, exclusive; rows must ascend."""
        if (start, stop) not in self._head_columns:
            self._head_columns[start, stop] = _input_major(self._head.weight[start:stop].t())
        # Ascending rows, as many as there are, are all rows in order.
        hidden = self._hidden if len(rows) == len(self._hidden) else self._hidden[list(rows)]
        bias = None if self._head.bias is None else self._head.bias[start:stop]
        return _Projection([self._head_columns[start, stop]], bias)(hidden)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._next_position.device)
        self._next_position = self._next_position[index]
        self._cache = self._cache[:, :, index]
        if self._mask is not None:
            self._mask = self._mask[index]


def _input_major(matrix: Tensor) -> Tensor:
    """Store a matrix (in, out) by its inputs on a CPU, where that is faster."""
    return matrix.contiguous() if matrix.device.type == "cpu" else matrix


def _grow(cache: Tensor, num_positions: int, value: float | None = None) -> Tensor:
    """Append positions to the last but one dimension, with a value or uninitialized."""
    shape = (*cache.shape[:-2], num_positions, cache.shape[-1])
    added = cache.new_empty(shape) if value is None else cache.new_full(shape, value)
    return torch.cat([cache, added], dim=-2)
