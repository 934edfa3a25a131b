"""Running a causal LM one id at a time. B rows, L prompt length, H hidden width, V vocabulary, d width of a head."""

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
_STATIC_ROPES = ("default", "linear", "llama3", "yarn")  # tables that do not depend on the length so far
# What transformers calls the keys and values of what was read: since 5.24 "cache".
CACHE = next(f.name for f in fields(BaseModelOutputWithPast) if f.name in ("cache", "past_key_values"))
_ROOM = 1024  # places that the cache grows by


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of a batch, padded on the left.

    Args:
        embeddings: (B, L, H).
        mask: (B, L) int64, 0 at padding.
        positions: (B, L) int64.
        restart_ids: ids whose position is 0 when they are written.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    restart_ids: frozenset[int] = frozenset()

    def after(self, position: Tensor, ids: Sequence[int]) -> Tensor:
        """(B,) positions of the ids that were written, of which `position` are those that would come next."""
        if self.restart_ids.isdisjoint(ids):
            return position
        restarts = torch.tensor([i in self.restart_ids for i in ids], device=position.device)
        return position.masked_fill(restarts, 0)


def prefill(model: PreTrainedModel, prompts: PromptBatch, max_new_ids: int) -> "LlamaDecoder | CausalDecoder":
    """Read the prompts, and stand ready for the first id.

    Args:
        model: a causal LM.
        prompts: of the whole batch.
        max_new_ids: ids that will be written at most.
    """
    return LlamaDecoder(model, prompts, max_new_ids) if is_llama_shaped(model) else CausalDecoder(model, prompts)


def is_llama_shaped(model: PreTrainedModel) -> bool:
    """Whether `LlamaDecoder` computes what the model does; adapters, quantised and spread weights are none of its."""
    if type(model).__name__ not in _LLAMA_SHAPED:
        return False
    config: Any = model.config
    projections = [m for name, m in model.named_modules() if name.endswith("_proj")] + [model.lm_head]
    return (
        config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _STATIC_ROPES
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and all(type(projection) is nn.Linear for projection in projections)
        and type(model.get_input_embeddings()) is nn.Embedding
        and all(parameter.device == model.device for parameter in model.parameters())
    )


class CausalDecoder:
    """Any causal LM of transformers, with the cache that it makes itself."""

    def __init__(self, model: PreTrainedModel, prompts: PromptBatch) -> None:
        self._model, self._prompts, self._mask = model, prompts, prompts.mask
        self._cache: Any = None
        self._known = inspect.signature(model.forward).parameters
        self._run(prompts.positions, inputs_embeds=prompts.embeddings)
        self._position = prompts.positions[:, -1] + 1  # (B,), of the next id

    def step(self, ids: Sequence[int]) -> None:
        """Read the id that each row wrote."""
        position = self._prompts.after(self._position, ids)
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._run(position[:, None], input_ids=torch.tensor(ids, device=self._mask.device)[:, None])
        self._position = position + 1

    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """(len(rows), stop - start) logits of the ids from `start` to `stop`, exclusive."""
        return self._logits[list(rows), start:stop]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self._mask.device)
        self._mask, self._position = self._mask[index], self._position[index]
        self._cache.batch_select_indices(index)

    def _run(self, positions: Tensor, **inputs: Tensor) -> None:
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self._model(
            **inputs,
            **{name: value for name, value in optional.items() if name in self._known},
            attention_mask=self._mask,
            use_cache=True,
            **{CACHE: self._cache},
        )
        self._cache, self._logits = getattr(output, CACHE), output.logits[:, -1]


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer; a list of matrices (in, out) stands for one, side by side."""

    norm: Tensor
    qkv: list[Tensor]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (heads of queries and keys, d)
    out: list[Tensor]
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: list[Tensor]
    gate_up_bias: Tensor | None
    down: list[Tensor]
    down_bias: Tensor | None


class LlamaDecoder:
    """Llama, Qwen2 and Qwen3 with a pre-allocated cache and a step of few operations.

    The prompts are read by transformers' own forward; a step is written out: projections side by side, one rotation
    for queries and keys, the head only for the ids that are allowed. On a CPU the matrices are copied once, since
    a vector times a matrix stored by its inputs takes half the time; on a GPU they are the model's own (nothing is
    captured or compiled there: no GPU was at hand to test it).
    """

    def __init__(self, model: PreTrainedModel, prompts: PromptBatch, max_new_ids: int) -> None:
        body: Any = model.model
        self._prompts, mask = prompts, prompts.mask
        self._embedding, self._head = body.embed_tokens.weight, model.lm_head
        self._norm, self._eps = body.norm.weight, body.norm.variance_epsilon
        self._layers = [_layer(layer) for layer in body.layers]
        self._columns: dict[tuple[int, int], Tensor] = {}
        output = body(
            inputs_embeds=prompts.embeddings, attention_mask=mask, position_ids=prompts.positions, use_cache=True
        )
        self._hidden = output.last_hidden_state[:, -1]  # (B, H)
        self._length, self._position = mask.shape[1], prompts.positions[:, -1] + 1
        read = torch.stack([torch.stack([layer.keys, layer.values]) for layer in getattr(output, CACHE).layers])
        self._cache = _grown(read, min(max_new_ids, _ROOM))  # (layers, 2, B, key heads, places, d)
        self._mask = None if mask.all() else _grown(mask.bool()[:, None, None, :, None], max_new_ids, True)[..., 0]
        places = torch.arange(mask.shape[1] + max_new_ids, device=mask.device)
        cos, sin = body.rotary_emb(prompts.embeddings, places[None])
        self._rotations = torch.stack([cos[0], sin[0]], dim=1)[:, :, None]  # (places, 2, 1, d)
        self._rotations[:, 1, :, : cos.shape[-1] // 2] *= -1  # so that rotating is rolling by half a head

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Read the id that each row wrote."""
        if self._length == self._cache.shape[-2]:
            self._cache = _grown(self._cache, _ROOM)
        x = F.embedding(torch.tensor(ids, device=self._embedding.device), self._embedding)
        position = self._prompts.after(self._position, ids)
        cos, sin = self._rotations[position].unbind(1)
        for layer, cache in zip(self._layers, self._cache, strict=True):
            x = self._attend(x, layer, cache, cos, sin)
            h = F.rms_norm(x, x.shape[1:], layer.mlp_norm, self._eps)
            gate, up = _times(h, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + _times(F.silu(gate) * up, layer.down, layer.down_bias)
        self._hidden = F.rms_norm(x, x.shape[1:], self._norm, self._eps)
        self._length, self._position = self._length + 1, position + 1

    def _attend(self, x: Tensor, layer: _Layer, cache: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, H) -> (B, H); the heads that share a key are the queries of one attention."""
        B, heads, d = len(x), cache.shape[2], cache.shape[-1]
        h = F.rms_norm(x, x.shape[1:], layer.norm, self._eps)
        h = _times(h, layer.qkv, layer.qkv_bias).view(B, -1, d)
        qk, v = h[:, :-heads], h[:, -heads:]
        if layer.qk_norm is not None:
            qk = F.rms_norm(qk, (d,), None, self._eps) * layer.qk_norm
        qk = torch.addcmul(qk * cos, qk.roll(d // 2, -1), sin)
        cache[0, :, :, self._length] = qk[:, -heads:]
        cache[1, :, :, self._length] = v
        q = qk[:, :-heads].reshape(B, heads, -1, d)
        keys, values = cache[:, :, :, : self._length + 1]
        mask = None if self._mask is None else self._mask[..., : self._length + 1]
        attended = F.scaled_dot_product_attention(q, keys, values, mask)
        return x + _times(attended.reshape(B, -1), layer.out, layer.out_bias)

    @torch.inference_mode()
    def logits(self, rows: Sequence[int], start: int, stop: int) -> Tensor:
        """(len(rows), stop - start) logits of the ids from `start` to `stop`, exclusive; rows ascend."""
        if (start, stop) not in self._columns:
            self._columns[start, stop] = _stored(self._head.weight[start:stop].t())
        hidden = self._hidden if len(rows) == len(self._hidden) else self._hidden[list(rows)]
        bias = None if self._head.bias is None else self._head.bias[start:stop]
        return _times(hidden, [self._columns[start, stop]], bias)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self._position.device)
        self._position, self._cache = self._position[index], self._cache[:, :, index]
        self._mask = None if self._mask is None else self._mask[index]


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    norms = [(attention.q_norm, q), (attention.k_norm, k)] if hasattr(attention, "q_norm") else []  # Qwen3
    d = attention.head_dim
    qk_norm = torch.cat([norm.weight.expand(x.out_features // d, d) for norm, x in norms]) if norms else None
    return _Layer(
        layer.input_layernorm.weight,
        *_joined(q, k, v),
        qk_norm,
        *_joined(attention.o_proj),
        layer.post_attention_layernorm.weight,
        *_joined(mlp.gate_proj, mlp.up_proj),
        *_joined(mlp.down_proj),
    )


def _joined(*linears: nn.Linear) -> tuple[list[Tensor], Tensor | None]:
    """-> matrices (in, out): one, or on a GPU those of the model; the bias of all"""
    matrices: list[Tensor] = [linear.weight.t() for linear in linears]
    if matrices[0].device.type == "cpu":
        matrices = [_stored(torch.cat(matrices, dim=1))]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return matrices, torch.cat(biases) if biases else None


def _stored(matrix: Tensor) -> Tensor:
    """By its inputs where that is faster."""
    return matrix.contiguous() if matrix.device.type == "cpu" else matrix


def _times(x: Tensor, matrices: list[Tensor], bias: Tensor | None) -> Tensor:
    """(B, in) -> (B, out)"""
    y = x @ matrices[0] if len(matrices) == 1 else torch.cat([x @ matrix for matrix in matrices], dim=-1)
    return y if bias is None else y + bias


def _grown(cache: Tensor, room: int, value: float | None = None) -> Tensor:
    """More places in the last but one dimension."""
    shape = (*cache.shape[:-2], room, cache.shape[-1])
    return torch.cat([cache, cache.new_empty(shape) if value is None else cache.new_full(shape, value)], dim=-2)
