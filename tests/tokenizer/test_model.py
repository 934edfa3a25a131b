"""The encoder equals WavLM in transformers; modules support dtypes, gradients and copies, and refuse bad input."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import WavLMConfig as HFWavLMConfig
from transformers import WavLMModel

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer.focalcodec import wavlm
from focallm.tokenizer.focalcodec.layers import StreamState
from focallm.tokenizer.focalcodec.parts import WavLMConfig
from focallm.tokenizer.focalcodec.wavlm import WavLMEncoder

KINDS = ["tiny_50hz", "tiny_12_5hz", "mel", "tiny_50hz_causal"]
TINY = WavLMConfig(
    (12,) * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), num_layers=2, dim=32, ffn_dim=48, num_heads=4
)
# names in transformers -> names here
LAYER = {
    "layer_norm": "attention_norm",
    "final_layer_norm": "feed_forward_norm",
    "feed_forward.intermediate_dense": "feed_forward.in_proj",
    "feed_forward.output_dense": "feed_forward.out_proj",
    "attention.out_proj": "attention.out_proj",
    "attention.gru_rel_pos_linear": "attention.gru_rel_pos_linear",
}


@pytest.mark.parametrize("samples", [400, 16000, 48001])  # one frame, 49, 149: near and far relative positions
@pytest.mark.parametrize("entries", [1 << 23, 1])  # queries in one block, and one by one
def test_equals_the_wavlm_of_transformers(monkeypatch, samples: int, entries: int) -> None:
    monkeypatch.setattr(wavlm, "_BIAS_ENTRIES", entries)
    torch.manual_seed(0)
    theirs = WavLMModel(
        HFWavLMConfig(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, conv_dim=(12,) * 7,
            do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=False,
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():  # zero biases and a gate of one would hide errors
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours = WavLMEncoder(TINY).eval()
    ours.load_state_dict(_from_transformers(theirs))
    waveform = torch.randn(2, samples)
    with torch.no_grad():
        expected = theirs(waveform, output_hidden_states=True).hidden_states[TINY.num_layers]
        torch.testing.assert_close(ours(waveform), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_over_a_minute_builds_no_square_table(causal: bool) -> None:
    encoder = WavLMEncoder(WavLMConfig(**vars(TINY) | {"causal": causal})).eval()
    frames = 3000
    with torch.no_grad(), _Largest() as largest:
        encoder(torch.randn(1, frames * 320 + 80), None, StreamState.new(1) if causal else None)
    assert largest.entries < frames * frames  # a square table for a single head would have as many
    assert largest.entries <= wavlm._BIAS_ENTRIES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_take_float32_audio(codec, kind: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(codec(kind)).to(dtype)
    waveform, mask = _noise(2, 9000), torch.arange(9000) < torch.tensor([[9000], [4000]])
    encoded = model.encode(waveform, mask)
    audio = model.decode(encoded.audio_codes, encoded.audio_codes_mask).audio_values
    assert encoded.latents.dtype == audio.dtype == dtype
    assert torch.isfinite(audio).all()
    assert model.extract_features(waveform).dtype == dtype
    if dtype == torch.float64:
        assert torch.equal(encoded.audio_codes, codec(kind).encode(waveform, mask).audio_codes)
    if model.config.causal:
        stream = model.stream(2)
        assert stream.decode(stream.encode(waveform)).dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(codec, kind: str) -> None:
    """Training calls the parts themselves; `encode` and `decode` keep no graph."""
    model = copy.deepcopy(codec(kind)).train()
    waveform = _noise(2, 9000)
    lengths = torch.tensor([9000, 5000])
    features = model.encoder(waveform, lengths, model._new_state(waveform))
    frames = model.encoder.num_frames(lengths)
    latents = model.quantizer.normalize(model.compressor(features, frames, model._new_state(waveform)))
    codes = latents + (model.quantizer.latents_to_codes(latents) - latents).detach()
    state = model._new_state(waveform)
    tokens = model.compressor.num_frames(frames)
    audio = model.decoder(model.decompressor(codes, tokens, state), tokens, state)
    (audio.square().mean() + features.square().mean()).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not model.encode(waveform).latents.requires_grad
    assert not model(waveform).audio_values.requires_grad


def test_attention_in_blocks_has_the_gradients_of_one_block(monkeypatch) -> None:
    torch.manual_seed(0)
    encoder, waveform = WavLMEncoder(TINY), torch.randn(2, 6000)
    gradients = []
    for entries in (1 << 23, 2 * 4 * 18 * 5):  # all 18 queries, and 5 at a time
        monkeypatch.setattr(wavlm, "_BIAS_ENTRIES", entries)
        encoder.zero_grad()
        encoder(waveform, torch.tensor([6000, 3000])).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_optional_parts_of_a_focal_block(codec) -> None:
    """No released model uses layer scale, norms after the layers, or a normalized modulator."""
    flags = {"use_post_norm": True, "use_layerscale": True, "normalize_modulator": True, "layerscale_init": 0.5}
    config = codec("tiny_25hz").config.to_dict()
    parts = {part: config[part] for part in ("encoder", "compressor", "quantizer", "decompressor", "decoder")}
    parts["compressor"] |= flags
    parts["decompressor"] |= flags | {"layerscale_init": 0.25}
    model = FocalCodecModel(FocalCodecConfig(**parts)).eval()
    assert model.compressor.layers[0].focal_block.modulation_gamma.eq(0.5).all()
    assert model.decompressor.layers[0].focal_block.feed_forward_gamma.eq(0.25).all()
    both = model.encode(_noise(2, 5000), torch.arange(5000) < torch.tensor([[5000], [2000]])).audio_codes
    assert torch.equal(both[1:, :, : int(model.num_tokens(2000))], model.encode(_noise(2, 5000)[1:, :2000]).audio_codes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_independent(codec, kind: str) -> None:
    model = codec(kind)
    waveform = _noise(1, 4000)
    tokens = model.encode(waveform).audio_codes
    copied = copy.deepcopy(model)
    assert torch.equal(copied.encode(waveform).audio_codes, tokens)
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert torch.equal(model.encode(waveform).audio_codes, tokens)


def test_a_new_model_is_initialized_as_its_config_says(codec) -> None:
    config = copy.deepcopy(codec("tiny_50hz_causal").config)
    config.compressor["tanhscale_init"], config.decompressor["tanhscale_init"] = 0.25, 0.75
    config.decoder["layerscale_init"] = 0.125
    model = FocalCodecModel(config)
    assert model.compressor.layers[1].focal_block.modulation_norm.alpha.item() == 0.25
    assert model.decompressor.layers[1].focal_block.modulation_norm.alpha.item() == 0.75
    assert model.decoder.backbone.layers[0].gamma.eq(0.125).all()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_tokens_are_not_computed_in_tf32(codec) -> None:
    """On a GPU PyTorch rounds the inputs of float32 convolutions unless told otherwise."""
    model, seen = codec("tiny_50hz"), []
    hooks = [
        module.register_forward_hook(lambda *args: seen.append(torch.backends.cudnn.allow_tf32))
        for part in (model.encoder, model.compressor)
        for module in part.modules()
        if isinstance(module, nn.Conv1d)
    ]
    before = torch.backends.cudnn.allow_tf32
    model.encode(_noise(1, 4000))
    for hook in hooks:
        hook.remove()
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_codebook_is_arithmetic(codec) -> None:
    quantizer = codec("tiny_50hz").quantizer
    assert quantizer.codebook.shape == (8192, 13)
    assert torch.equal(quantizer.codes_to_tokens(quantizer.codebook), torch.arange(8192))
    assert quantizer.codes_to_tokens(torch.tensor([[[1.0] + [-1.0] * 12]])).item() == 4096  # dimension 0: highest bit
    assert quantizer.codes_to_tokens(torch.zeros(1, 1, 13)).item() == 0  # exactly zero counts as negative
    torch.testing.assert_close(quantizer.codebook.norm(dim=-1), torch.ones(8192))


@pytest.mark.parametrize(
    ("waveform", "mask", "message"),
    [
        (torch.zeros(16000), None, r"found \(16000,\); add the batch axis"),
        (torch.zeros(1, 2, 16000), None, "average channels"),
        (torch.zeros(1, 0), None, "at least one sample"),
        (torch.zeros(0, 100), None, "at least one sample"),
        (torch.zeros(1, 100, dtype=torch.int16), None, "divide integer PCM by its full scale"),
        (torch.full((1, 100), torch.nan), None, "NaN or infinite"),
        (torch.full((1, 100), torch.inf), None, "NaN or infinite"),
        (torch.zeros(2, 100), torch.ones(2, 99), r"padding_mask must have the shape .*found \(2, 99\)"),
        (torch.zeros(2, 4), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), "item 1 as empty"),
        (torch.zeros(1, 4), torch.tensor([[0, 1, 1, 1]]), "pad at the end"),
    ],
)
def test_bad_waveforms_are_refused(codec, waveform: Tensor, mask: Tensor | None, message: str) -> None:
    for call in (codec("tiny_25hz").encode, codec("tiny_25hz").extract_features, codec("tiny_50hz_causal")):
        with pytest.raises(ValueError, match=message):
            call(waveform, mask)


@pytest.mark.parametrize(
    ("codes", "arguments", "message"),
    [
        (torch.tensor([[8192]]), {}, r"0 \.\.\. 8191, found 8192: subtract the vocabulary's audio offset"),
        (torch.tensor([[5, -1]]), {}, "found -1"),
        (torch.zeros(1, 4), {}, "must be integers, found torch.float32"),
        (torch.zeros(1, 2, 4, dtype=torch.long), {}, r"found \(1, 2, 4\)"),
        (torch.zeros(1, 0, dtype=torch.long), {}, "at least one token"),
        (torch.tensor([[1, 2]]), {"num_samples": 0}, "at least 1, found 0"),
        (torch.tensor([[1, 2]]), {"num_samples": [5, 6]}, "one entry per item, 1 in all, found shape"),
        (torch.tensor([[1, 2]]), {"audio_codes_mask": torch.tensor([[False, True]])}, "pad at the end"),
    ],
)
def test_bad_tokens_are_refused(codec, codes: Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec("tiny_25hz").decode(codes, **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_exact(codec, kind: str) -> None:
    model = codec(kind)
    for samples in (1, 319, 320, 399, 8000, 8001):
        out = model(_noise(1, samples))
        assert out.audio_values.shape[-1] == samples * model.config.output_sampling_rate // 16000
        assert out.audio_codes.shape == (1, 1, int(model.num_tokens(samples)))


class _Largest(TorchDispatchMode):
    """Records the number of entries of the largest tensor that is stored while it is active (views cost nothing)."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def _noise(items: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(items, samples, generator=torch.Generator().manual_seed(samples))


def _from_transformers(theirs: WavLMModel) -> dict[str, Tensor]:
    """The weights of the first layers of transformers' WavLM under our names."""
    source = theirs.state_dict()
    found = {}
    for i in range(7):
        conv = theirs.feature_extractor.conv_layers[i]
        found[f"feature_extractor.layers.{i}.conv.weight"] = conv.conv.weight
        found |= {f"feature_extractor.layers.{i}.norm.{k}": v for k, v in conv.layer_norm.state_dict().items()}
    for name, ours in (("layer_norm", "norm"), ("projection", "feature_proj")):
        found |= {f"{ours}.{k}": source[f"feature_projection.{name}.{k}"] for k in ("weight", "bias")}
    position = theirs.encoder.pos_conv_embed.conv  # its weight is parametrized: reading it folds the norm
    found["encoder.positional_embedding.conv.weight"] = position.weight
    found["encoder.positional_embedding.conv.bias"] = position.bias
    found["encoder.relative_embedding.weight"] = source["encoder.layers.0.attention.rel_attn_embed.weight"]
    for i in range(TINY.num_layers):
        layer, own = f"encoder.layers.{i}", f"encoder.layers.{i}"
        for name, ours in LAYER.items():
            found |= {f"{own}.{ours}.{k}": source[f"{layer}.{name}.{k}"] for k in ("weight", "bias")}
        for k in ("weight", "bias"):
            parts = [source[f"{layer}.attention.{letter}_proj.{k}"] for letter in "qkv"]
            found[f"{own}.attention.qkv_proj.{k}"] = torch.cat(parts)
        found[f"{own}.attention.gru_rel_pos_const"] = source[f"{layer}.attention.gru_rel_pos_const"]
    return found
