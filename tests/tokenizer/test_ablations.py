"""Parts that replace focal modulation, Snake, BSQ and Vocos keep the properties of the codec."""

import pytest
import torch
from torch import Tensor

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer.focalcodec import blocks, parts, quantizer
from focallm.tokenizer.focalcodec.blocks import BLOCKS
from focallm.tokenizer.focalcodec.decoders import HiFiGAN

FOCAL = {"focal_window": 7, "focal_level": 2, "focal_factor": 2}
CONFORMER = {"type": "conformer", "num_heads": 2, "kernel_size": 5, "expansion": 1}
AMP = {"type": "amp", "kernel_size": 3, "dilations": [1, 3]}
CONVNEXT = {"type": "convnext", "depth": 2, "kernel_size": 5}
VARIANTS = {
    "conformer": {"stack": CONFORMER},
    "convnext": {"stack": CONVNEXT},
    "amp": {"stack": AMP},
    "linear": {"stack": {"type": "linear"}},
    "leaky_relu": {"stack": {"activation": "leaky_relu", **FOCAL}},
    "lfq": {"quantizer": {"type": "lfq"}},
    "hifigan": {"decoder": {"type": "hifigan", "channels": 16, "kernel_sizes": [3, 5], "dilations": [1, 3]}},
    "wavenext": {
        "decoder": {"type": "wavenext", "num_layers": 2, "dim": 16, "ffn_dim": 32, "hop_length": 320, "causal": False}
    },
}
LENGTHS = [1, 640, 961, 4000, 7777]  # samples: one token, an even and an odd number of frames


def config(stack=FOCAL, quantizer=None, decoder=None) -> dict:
    return {
        "encoder": {"type": "mel", "dim": 20},
        "compressor": {"input_dim": 20, "output_dim": 13, "hidden_dims": [24, 16], "factors": [1, 2], **stack},
        "quantizer": {"codebook_size": 8192, **(quantizer or {})},
        "decompressor": {"input_dim": 13, "output_dim": 20, "hidden_dims": [16, 24], "factors": [2, 1], **stack},
        "decoder": {
            "input_dim": 20,
            **(decoder or {"type": "vocos", "num_layers": 2, "dim": 16, "ffn_dim": 32}),
        },
    }


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> FocalCodecModel:
    model = FocalCodecModel(FocalCodecConfig(**config(**VARIANTS[request.param]))).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # larger than in a new model, so that tokens vary
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return model


def noise(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def speech(samples: int) -> Tensor:
    """Noise whose level and tilt change every 640 samples, so that tokens vary."""
    gain = noise(samples // 640 + 1).mul(10).exp().repeat_interleave(640)[:samples]
    return (gain * noise(samples)).cumsum(0).sin()


def test_a_batch_equals_single_calls(model):
    batch = torch.nn.utils.rnn.pad_sequence([speech(n) for n in LENGTHS], batch_first=True, padding_value=1e4)
    mask = torch.arange(batch.shape[1]) < torch.tensor(LENGTHS)[:, None]
    encoded = model.encode(batch, mask)
    decoded = model.decode(encoded.audio_codes, encoded.audio_codes_mask).audio_values[:, 0]
    assert len(encoded.audio_codes.unique()) > 3
    for i, length in enumerate(LENGTHS):
        single = model.encode(speech(length)[None])
        audio = model.decode(single.audio_codes).audio_values[0, 0]
        tokens = single.audio_codes.shape[-1]
        assert torch.equal(encoded.audio_codes[i, 0, :tokens], single.audio_codes[0, 0])
        torch.testing.assert_close(encoded.latents[i, :tokens], single.latents[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(decoded[i, : len(audio)], audio, atol=2e-5, rtol=1e-4)
        assert len(audio) == 640 * tokens
        assert not decoded[i, len(audio) :].any()


@pytest.mark.parametrize("part", ["compressor", "decompressor", "decoder"])
def test_parts_ignore_padding(model, part):
    size, lengths = {"compressor": 20, "decompressor": 13, "decoder": 20}[part], torch.tensor([9, 4])
    x = noise(2, 9, size)
    dirty = x.masked_fill((torch.arange(9) >= lengths[:, None])[..., None], 1e4)
    module = getattr(model, part)
    with torch.no_grad():
        clean, changed, single = module(x, lengths), module(dirty, lengths), module(x[1:, :4])
    torch.testing.assert_close(changed[1:, : single.shape[1]], single, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(clean[:1], changed[:1], atol=0, rtol=0)


def test_gradients_reach_every_parameter(model):
    features = noise(2, 6, 20)
    latents = model.quantizer.normalize(model.compressor(features))
    codes = latents + (model.quantizer.latents_to_codes(latents) - latents).detach()
    model.zero_grad()
    model.decoder(model.decompressor(codes)).square().mean().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_saved_and_loaded_again(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = FocalCodecModel.from_pretrained(tmp_path)  # strictly
    before, after = model(speech(5000)[None]), loaded(speech(5000)[None])
    assert torch.equal(before.audio_codes, after.audio_codes)
    assert torch.equal(before.audio_values, after.audio_values)


@pytest.mark.parametrize("part", ["compressor", "decompressor"])
@pytest.mark.parametrize("stack", [CONFORMER, AMP, {"type": "linear"}], ids=lambda stack: stack["type"])
def test_stacks_without_a_causal_form_are_refused_as_causal(stack, part):
    values = config(stack)
    values[part]["causal"] = True
    with pytest.raises(ValueError, match=rf'{part}: type "{stack["type"]}" has no causal form, but causal is true'):
        FocalCodecConfig(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stack": {"type": "lstm"}},
            r"compressor.type must be one of \['amp', 'conformer', 'convnext', 'focal', 'l",
        ),
        ({"stack": {**FOCAL, "activation": "relu"}}, "compressor: activation must be"),
        ({"stack": {**CONFORMER, "num_heads": 5}}, r"compressor: hidden_dims \(24, 16\) are not multiples"),
        ({"stack": {**FOCAL, **AMP}}, r"compressor: unknown keys \['focal_factor', 'focal_level', 'focal_window'\]"),
        ({"quantizer": {"type": "fsq"}}, 'quantizer: type must be "bsq" or "lfq"'),
        ({"decoder": {"type": "hifigan", "causal": True}}, 'decoder: type "hifigan" has no causal form'),
        ({"decoder": {"type": "hifigan", "channels": 24}}, r"channels \(24\) cannot be halved"),
    ],
)
def test_contradictory_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FocalCodecConfig(**config(**change))


def test_the_default_types_are_those_of_the_published_model():
    plain, named = config(), config({"type": "focal", "activation": "snake", **FOCAL}, {"type": "bsq"})
    plain, named = FocalCodecConfig(**plain), FocalCodecConfig(**named)
    for part in ("compressor", "quantizer", "decompressor", "decoder"):
        assert getattr(plain, f"{part}_config") == getattr(named, f"{part}_config")


def test_the_receptive_field_of_each_block():
    reach = {}
    for kind, values in {"conformer": CONFORMER, "amp": AMP, "linear": {}}.items():
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "type"}
        stack = parts.STACKS[kind](input_dim=8, output_dim=8, hidden_dims=(8,), factors=(1,), **values)
        torch.manual_seed(0)
        x = noise(1, 101, 8).requires_grad_()
        BLOCKS[type(stack)](stack, 8)(x, None, None)[0, 50, 0].backward()
        seen = x.grad[0].abs().sum(-1).nonzero()[:, 0]
        reach[kind] = (50 - int(seen.min()), int(seen.max()) - 50)
    assert reach["conformer"] == (50, 50)
    assert reach["linear"] == (0, 0)
    assert 5 < reach["amp"][0] == reach["amp"][1] < 50


def test_blocks_are_as_large_as_focal_ones():
    common = {"input_dim": 256, "output_dim": 256, "hidden_dims": (256,), "factors": (1,)}
    kinds = [
        parts.FocalConfig(**common, **FOCAL),
        parts.ConformerConfig(**common, num_heads=4, kernel_size=15, expansion=1),
        parts.AMPConfig(**common, kernel_size=3, dilations=(1, 3)),
    ]
    focal, *others = (sum(p.numel() for p in BLOCKS[type(kind)](kind, 256).parameters()) for kind in kinds)
    assert others == pytest.approx([focal, focal], rel=0.1)


def test_rotary_attention_depends_on_distances_only():
    q, k = noise(1, 1, 1, 16).expand(1, 1, 9, 16), noise(1, 1, 2, 16)[:, :, :1].expand(1, 1, 9, 16)
    scores = (blocks._rotate(q) @ blocks._rotate(k).mT)[0, 0]
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])
    assert scores[0].std() > 1e-3


def test_the_filters_around_an_activation_prevent_aliasing():
    assert blocks.low_pass().sum() == pytest.approx(1)
    t = torch.arange(200.0)[None, :, None]
    slow = (0.2 * t).sin()
    torch.testing.assert_close(
        blocks.without_aliases(torch.nn.Identity(), slow, None)[:, 20:-20], slow[:, 20:-20], atol=0.02, rtol=0
    )
    # The square of a tone at 0.4 of the frame rate is a tone at 0.8, which would alias to 0.2 without the filters.
    tone = (0.4 * 2 * torch.pi * t).cos()
    power = lambda x: x[:, 20:-20].sub(x[:, 20:-20].mean()).square().mean()  # noqa: E731
    assert power(blocks.without_aliases(Square(), tone, None)) < 0.2 * power(tone.square())


class Square(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def test_lookup_free_codes_are_signs_and_give_the_tokens_of_spherical_codes():
    lfq = quantizer.LookupFreeQuantizer(parts.QuantizerConfig(8192, "lfq"))
    bsq = quantizer.BinarySphericalQuantizer(parts.QuantizerConfig(8192))
    latents = 5 * noise(1, 50, 13)
    assert lfq.normalize(latents) is latents
    assert torch.equal(lfq.latents_to_codes(latents), latents.sign())
    assert torch.equal(lfq.codes_to_tokens(latents), bsq.codes_to_tokens(bsq.normalize(latents)))
    assert torch.equal(lfq.codebook, bsq.codebook.sign())


def test_the_generator_of_the_published_size_is_hifigan_v1():
    with torch.device("meta"):
        model = HiFiGAN(parts.HiFiGANConfig(80, factors=(8, 8, 2, 2)))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(13.92e6, rel=0.005)


def test_the_generator_takes_odd_factors():
    config = parts.HiFiGANConfig(4, 8, (5, 3), (3,), (1,))
    assert HiFiGAN(config)(noise(2, 7, 4)).shape == (2, 7 * config.hop_length)
