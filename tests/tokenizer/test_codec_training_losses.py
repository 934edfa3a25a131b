"""Losses of codec training: spectra, discriminators, entropy of the codes."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import normalize

from focallm.tokenizer.focalcodec.configuration import QuantizerConfig
from focallm.tokenizer.focalcodec.quantizer import BinarySphericalQuantizer
from focallm.tokenizer.training import losses
from focallm.tokenizer.training.config import DecoderStageConfig, WaveformGanConfig
from focallm.tokenizer.training.discriminators import GAN, Discriminators


def latents(frames: int, bits: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(frames, bits, generator=torch.Generator().manual_seed(seed)), dim=-1)


def quantizer(bits: int) -> BinarySphericalQuantizer:
    return BinarySphericalQuantizer(QuantizerConfig(2**bits))


def enumerated_entropy(u, codebook, t, factorized=False):
    """Compute the entropies by plain sums; factorized, that of a frame as the sum over its independent bits."""
    entropy = lambda p: -sum(x * math.log(max(x, 1e-5)) for x in p)  # noqa: E731
    rows = []
    for row in u.tolist():
        scores = [math.exp(-t * sum((a - b) ** 2 for a, b in zip(row, c, strict=True))) for c in codebook.tolist()]
        rows.append([s / sum(scores) for s in scores])
    single = sum(map(entropy, rows)) / len(rows)
    if factorized:
        size = len(u[0]) ** -0.5
        ons = [[1 / (1 + math.exp(-4 * t * size * x)) for x in row] for row in u.tolist()]
        single = sum(entropy([p, 1 - p]) for row in ons for p in row) / len(rows)
    return single, entropy([sum(column) / len(rows) for column in zip(*rows, strict=True)])


@pytest.mark.parametrize("factorized", [False, True])
def test_entropy_equals_an_enumeration_and_that_of_a_frame_the_sum_over_its_bits(factorized):
    u, q = latents(5, 3), quantizer(3)
    single, mean = enumerated_entropy(u, q.codebook, 10, factorized)
    assert losses.entropy_loss(u, q, inverse_temperature=10).item() == pytest.approx(single - mean, abs=1e-5)


def test_entropy_in_chunks_has_the_same_value_and_gradient(monkeypatch):
    q = quantizer(5)
    a, b = (latents(50, 5).requires_grad_() for _ in range(2))
    whole = losses.entropy_loss(a, q, 5.0)
    monkeypatch.setattr(losses, "_MAX_TABLE_ENTRIES", 3 * 32)
    parts = losses.entropy_loss(b, q, 5.0)
    whole.backward()
    parts.backward()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(b.grad, a.grad)
    assert a.grad.abs().max() > 1e-3


def test_entropy_never_stores_a_table_of_all_frames_and_codes(monkeypatch):
    sizes, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim=dim))
    monkeypatch.setattr(losses, "_MAX_TABLE_ENTRIES", 8 * 1024)
    losses.entropy_loss(latents(60, 10).requires_grad_(), quantizer(10)).backward()
    assert max(sizes) == 8 * 1024
    assert len(sizes) == 2 * 8  # recomputed in the backward pass


def test_entropy_is_lowest_for_certain_and_varied_codes():
    q = quantizer(4)
    varied = q.codebook
    collapsed = varied[:1].expand(16, -1)
    assert losses.entropy_loss(varied, q) < losses.entropy_loss(collapsed, q) - 2


def test_losses_are_zero_only_for_equal_signals():
    a, b = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    assert losses.mel_loss(a, a, 16000, 320) == losses.stft_loss(a, a) == 0
    assert losses.mel_loss(a, b, 16000, 320) > 0.1
    assert losses.stft_loss(a, b) > 0.1


def test_hinge_losses_are_zero_beyond_the_margin():
    real, fake = [torch.full((2, 3), 1.5)], [torch.full((2, 3), -1.5)]
    assert losses.discriminator_loss(real, fake) == 0
    assert losses.generator_loss(fake) == 1.5


def test_full_width_discriminators_have_the_published_size():
    with torch.device("meta"):
        millions = sum(p.numel() for p in Discriminators().parameters()) / 1e6
    assert millions == pytest.approx(70.7, rel=0.01)  # HiFi-GAN: 41.1 M multi-period and 29.6 M multi-scale


def test_discriminators_take_any_length():
    scores, activations = Discriminators(0.05, scales=1)(torch.randn(2, 1001))
    assert len(scores) == len(activations) == 6


def test_resolution_discriminators_see_what_period_discriminators_do_not():
    torch.manual_seed(0)
    noise = torch.randn(1, 4096)
    smooth = torch.nn.functional.avg_pool1d(noise[:, None], 5, 1, 2)[:, 0]
    discriminators = Discriminators(0.05, periods=(2,), scales=0, resolutions=2)
    scores, activations = discriminators(torch.cat([noise, smooth]).requires_grad_())
    assert len(scores) == 3
    assert [len(layers) for layers in activations] == [5, 4, 4]
    assert scores[1].shape[0] == 2
    assert not torch.allclose(scores[1][0], scores[1][1], atol=1e-3)
    sum(score.mean() for score in scores).backward()
    assert all(p.grad is not None for p in discriminators.parameters())


def test_the_learning_rate_of_discriminators_has_a_factor():
    gan = GAN(
        WaveformGanConfig(width=0.01, scales=1, learning_rate_factor=3.0), DecoderStageConfig(), Accelerator(cpu=True)
    )
    gan.discriminator_step(torch.randn(2, 2000), torch.randn(2, 2000), 1e-3)
    assert gan.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)
