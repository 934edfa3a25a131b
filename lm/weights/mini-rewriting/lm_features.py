# A copy of lm/features.py of focallm (Apache-2.0). Its relative imports name the other copies in this folder.
"""A causal LM that also reads continuous features, with positions that align its output to its input.

B batch, L length in ids, M features of a whole batch, D width of a feature, H width of an embedding, V ids.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTextToWaveform,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast

# Features on either side that the projector reads with each one: 0.12 s at 50 Hz, about a phoneme.
CONTEXT = 6
# Control tokens at which positions restart, see `aligned_positions`.
RESTART_CONTROLS = ("speech", "speaker")
_UNBOUNDED = 1 << 17  # positions assumed for a model whose config states no maximum


@strict
class SpeechLMConfig(PreTrainedConfig):
    """Configuration of a `SpeechLMForConditionalGeneration`.

    Args:
        text_config: config of the causal LM inside, of any type that `AutoModelForCausalLM` supports.
        feature_size: width D of the features.
        feature_token_id: the id that is the placeholder of one feature.
        feature_context: features on either side that the projector reads with each one.
        restart_ids: ids at which positions restart, see `aligned_positions`.
    """

    model_type = "focallm_speech_lm"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012  # as transformers declares it

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    feature_size: int = 1024
    feature_token_id: int = 0
    feature_context: int = 0
    restart_ids: Sequence[int] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = AutoConfig.for_model(**{"model_type": "llama", **(self.text_config or {})})
        # peft looks for it here.
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        super().__post_init__(**kwargs)


class FeatureProjector(nn.Module):
    """Project features (M, D) of any scale to embeddings (M, H).

    Each feature is projected together with its neighbors. A causal LM alone would see what follows a frame only after
    it has written the output for that frame.

    Args:
        feature_size: D.
        hidden_size: H.
        context: number of neighbors on either side.
    """

    def __init__(self, feature_size: int, hidden_size: int, context: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear((feature_size + 2) * (2 * context + 1), hidden_size)
        self.outer = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor, neighbors: Tensor) -> Tensor:
        """Project features.

        Args:
            features: (M, D).
            neighbors: (M, 2 * context + 1) indices of the features to read with each one, from `neighbor_indices`.

        Returns:
            (M, H).
        """
        features = features.float()
        mean = features.mean(-1, keepdim=True)
        centered = features - mean
        deviation = centered.square().mean(-1, keepdim=True).add(1e-5).sqrt()
        # Normalization hides how loud a log-mel frame is, so its mean and deviation come as two more values.
        normalized = torch.cat([centered / deviation, mean, deviation.log()], dim=-1)
        windows = normalized[neighbors].flatten(1)
        return self.outer(F.gelu(self.inner(windows.to(self.inner.weight.dtype))))


class SpeechLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Any causal LM, with a projector for the features at its `<|feature|>` ids."""

    config_class = SpeechLMConfig
    supports_gradient_checkpointing = True
    # Empty, but a dictionary, so that peft looks for tied weights inside of the causal LM.
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SpeechLMConfig) -> None:
        super().__init__(config)
        text_config: Any = config.text_config
        self.language_model = AutoModelForCausalLM.from_config(text_config)
        self.projector = FeatureProjector(config.feature_size, text_config.hidden_size, config.feature_context)
        self.post_init()

    @classmethod
    def wrap(
        cls, causal_lm: PreTrainedModel, feature_size: int, feature_token_id: int, restart_ids: Sequence[int] = ()
    ) -> PreTrainedModel:
        """Add a freshly initialized projector to a causal LM, whose weights stay as they are."""
        config = SpeechLMConfig(
            text_config=causal_lm.config,
            feature_size=feature_size,
            feature_token_id=feature_token_id,
            feature_context=CONTEXT,
            restart_ids=list(restart_ids),
            dtype=causal_lm.dtype,
        )
        # On the meta device the causal LM that `cls` creates, and that is replaced, costs no memory.
        with torch.device("meta"):
            model = cls(config)
        model.language_model = causal_lm
        model.projector = FeatureProjector(feature_size, causal_lm.config.hidden_size, CONTEXT)
        model.projector.to(causal_lm.device, causal_lm.dtype).apply(model._init_weights)
        model.generation_config = causal_lm.generation_config
        # The path of the base moves to the outer config, so that saved files do not contain it.
        config.name_or_path = causal_lm.config.name_or_path
        causal_lm.config.name_or_path = ""
        return model

    def forward(
        self,
        input_ids: Tensor | None = None,
        features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the causal LM inside, with features in the place of `<|feature|>` ids.

        Args:
            input_ids: (B, L).
            features: (M, D) of the whole batch, row after row.
            attention_mask: (B, L). Without it, `position_ids` tell the examples of a packed row apart.
            position_ids: (B, L) position of each id within its example.
            inputs_embeds: (B, L, H) instead of `input_ids` and `features`.
            labels: (B, L).
            kwargs: as the causal LM takes them.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = embed(self, input_ids, features)
            if self.config.restart_ids and (position_ids is None or attention_mask is None):
                cache = kwargs.get("cache", kwargs.get("past_key_values"))
                attention_mask, position_ids = self._mask_and_positions(
                    input_ids, inputs_embeds, attention_mask, position_ids, cache
                )
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )

    def _mask_and_positions(
        self, ids: Tensor, embeddings: Tensor, mask: Tensor | None, order: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mask and the aligned positions of whole sequences."""
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError("with a cache this model needs attention_mask and position_ids, which generate() passes")
        if order is None:
            order = positions_from_mask(torch.ones_like(ids) if mask is None else mask)
        if mask is None:
            # transformers takes positions that decrease for the boundary of two examples. Aligned positions also
            # decrease inside an example, so the mask is made from the order here.
            config = self.language_model.config
            packed_mask: Any = create_causal_mask(config, embeddings, None, None, order, allow_is_causal_skip=False)
            if packed_mask is None:
                name = config._attn_implementation
                raise ValueError(f"attention {name!r} takes no mask of examples: load with attn_implementation='sdpa'")
            mask = packed_mask
        return mask, aligned_positions(ids, order, self.config.restart_ids)

    def prepare_inputs_for_generation(self, *args: Any, features: Tensor | None = None, **kwargs: Any) -> dict:
        """Prepare a step of `generate`. Features are read in the first step; after that they are in the cache."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]  # a mixin's self
        if self.config.restart_ids:
            ids = args[0]
            mask = kwargs.get("attention_mask")
            if mask is None:
                mask = torch.ones_like(ids)
                inputs["attention_mask"] = mask
            positions = aligned_positions(ids, positions_from_mask(mask), self.config.restart_ids)
            inputs["position_ids"] = positions[:, -inputs["input_ids"].shape[1] :]
        is_cached = not kwargs.get("is_first_iteration") and kwargs.get("use_cache")
        if not is_cached:
            inputs["features"] = features
        return inputs

    def get_input_embeddings(self) -> nn.Module:
        """Return the input embeddings of the causal LM."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the input embeddings of the causal LM."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head of the causal LM."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head of the causal LM."""
        self.language_model.set_output_embeddings(new_embeddings)


AutoConfig.register(SpeechLMConfig.model_type, SpeechLMConfig, exist_ok=True)
AutoModelForCausalLM.register(SpeechLMConfig, SpeechLMForConditionalGeneration, exist_ok=True)
# For `pipeline("text-to-speech")`.
AutoModelForTextToWaveform.register(SpeechLMConfig, SpeechLMForConditionalGeneration, exist_ok=True)


def without_peft(model: nn.Module) -> PreTrainedModel:
    """Return the model inside a peft wrapper; adapter layers stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def language_model(model: nn.Module) -> PreTrainedModel:
    """Return the plain causal LM inside a model, also inside a peft wrapper."""
    inner = without_peft(model)
    return inner.language_model if isinstance(inner, SpeechLMForConditionalGeneration) else inner  # type: ignore[return-value]


def restart_ids(model: nn.Module) -> Sequence[int]:
    """Return the ids at which positions of a model restart; a plain causal LM has none."""
    return getattr(without_peft(model).config, "restart_ids", ())


def max_positions(model: nn.Module) -> int:
    """Return the maximum number of ids that a model can read and write in one sequence, from its config."""
    return getattr(language_model(model).config, "max_position_embeddings", None) or _UNBOUNDED


def embed(model: nn.Module, input_ids: Tensor, features: Tensor | None = None) -> Tensor:
    """Embed ids, with features where `<|feature|>` stands.

    Args:
        model: a causal LM, with or without projector and adapters.
        input_ids: (B, L).
        features: (M, D), one for each `<|feature|>`, row after row.

    Returns:
        (B, L, H).

    Raises:
        ValueError: the model reads no features, or features of another width or number.
    """
    inner = without_peft(model)
    embeddings = inner.get_input_embeddings()(input_ids)
    if not isinstance(inner, SpeechLMForConditionalGeneration):
        if features is not None and len(features):
            raise ValueError(
                "this model reads no continuous features: make it with feature_size=..., or use a template of codes"
            )
        return embeddings
    config = inner.config
    if features is None:
        # The projector takes part in every step, even with no feature at all, because DDP requires it.
        features = embeddings.new_zeros(0, config.feature_size)
    is_feature = input_ids == config.feature_token_id
    expected = (int(is_feature.sum()), config.feature_size)
    if features.shape != expected:
        raise ValueError(
            f"{expected[0]} <|feature|> ids need features of shape {expected}, found {tuple(features.shape)}: prompt "
            "and features do not belong together, or the features come from another codec"
        )
    neighbors = neighbor_indices(is_feature, config.feature_context)
    projected = inner.projector(features.to(embeddings.device), neighbors)
    return embeddings.masked_scatter(is_feature[..., None], projected.to(embeddings.dtype))


def neighbor_indices(is_feature: Tensor, context: int) -> Tensor:
    """Return which features surround each one within its run; at the ends of a run the last one is repeated.

    Args:
        is_feature: (B, L) bool, true at M features, which are numbered row after row.
        context: number of neighbors on either side.

    Returns:
        (M, 2 * context + 1) int64, numbers of features.
    """
    # A column of padding ends the last run of each row, so that none continues in the next row.
    index = F.pad(is_feature, (0, 1)).flatten().nonzero()[:, 0]
    number = torch.arange(len(index), device=is_feature.device)
    # Within a run, index and number grow alike; a gap between features changes their difference.
    run = (index - number).unique_consecutive(return_inverse=True)[1]
    first = torch.searchsorted(run, run)
    last = torch.searchsorted(run, run, right=True) - 1
    neighbors = number[:, None] + torch.arange(-context, context + 1, device=is_feature.device)
    return neighbors.clamp(first[:, None], last[:, None])


def aligned_positions(ids: Tensor, order: Tensor, restart_ids: Sequence[int]) -> Tensor:
    """Return positions that restart at 0 at every restart id.

    In `<|noisy|> x0 x1 ... <|speech|> y0 y1 ...`, x and y of the same frame then have the same position, and so have
    the streams of several speakers: where to attend is a rotation that the model starts with, not a distance that it
    has to learn for every length. Measured on 1.6 h of noisy speech, features to codes, 256 x 4: 5.03 nats of eval loss
    after 2 epochs, against 5.83 with ordinary positions (5.44 after 5).

    Args:
        ids: (B, L).
        order: (B, L) position of each id within its example, from 0; 0 at padding.
        restart_ids: if empty, the positions equal the order.

    Returns:
        (B, L) int64.
    """
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    restarts = (order == 0) | torch.isin(ids, torch.tensor(restart_ids, dtype=ids.dtype, device=ids.device))
    return index - (index * restarts).cummax(-1).values


def positions_from_mask(mask: Tensor) -> Tensor:
    """Return the position of each id among the unmasked ones (B, L), from 0; 0 at padding on the left.

    Args:
        mask: (B, L) attention mask.
    """
    return (mask.cumsum(-1) - 1).clamp(min=0)
