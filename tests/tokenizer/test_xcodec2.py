"""X-Codec2 and NeuCodec with tiny random weights: equal to transformers with their own feature extractors."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import SeamlessM4TFeatureExtractor
from transformers.models.neucodec.feature_extraction_neucodec import NeuCodecFeatureExtractor
from transformers.models.xcodec2.feature_extraction_xcodec2 import Xcodec2FeatureExtractor

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.transformers_codecs import NeuCodec
from focallm.tokenizer.long_audio import encode_long

NAMES = ("xcodec2", "neucodec")


@pytest.fixture(params=NAMES, scope="module")
def codec(request, tiny_codec):
    return tiny_codec(request.param)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


def fbank(waveform, **options):
    """The one function of torchaudio that the extractors call, (1, T) -> (frames, 80)."""
    return torch.from_numpy(SeamlessM4TFeatureExtractor()._extract_fbank_features(waveform[0].numpy() / 2**15))


@pytest.fixture
def official(monkeypatch):
    """`official(codec, wave)`: run its feature extractor of transformers with a stand-in for torchaudio."""
    torchaudio = SimpleNamespace(compliance=SimpleNamespace(kaldi=SimpleNamespace(fbank=fbank)))
    for extractor_class in (Xcodec2FeatureExtractor, NeuCodecFeatureExtractor):
        module = sys.modules[extractor_class.__module__]
        monkeypatch.setattr(module, "torchaudio", torchaudio, raising=False)

    def extract(codec, wave):
        extractor = codec.make_feature_extractor()
        call = type(extractor).__call__
        call = getattr(call, "__wrapped__", call)  # without asking for torchaudio
        return call(extractor, wave.flatten().numpy(), sampling_rate=16000, return_tensors="pt")

    return extract


@pytest.mark.parametrize("samples", [320, 6400, 6399, 7001])
@torch.no_grad()
def test_equals_transformers_from_the_waveform_on(codec, official, samples):
    wave = noise(1, 1, samples)
    rate_ratio = codec.config.output_sampling_rate / 16000
    if type(codec) is NeuCodec:  # transformers would drop an incomplete last frame
        expected = codec.model(**official(codec, F.pad(wave, (0, -samples % 320))))
    else:
        expected = codec.model(**official(codec, wave))
    out = codec.encode(wave)
    assert torch.equal(out.audio_codes, expected.audio_codes)
    assert samples < 6000 or out.audio_codes.unique().numel() > 1  # random weights do tell frames apart
    audio = codec.decode(out.audio_codes, num_samples=samples).audio_values
    torch.testing.assert_close(audio, expected.audio_values[..., : int(samples * rate_ratio)], atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 5000])
def test_counts_and_lengths(codec, samples):
    c = codec.config
    codes = codec.encode(noise(1, 1, samples)).audio_codes
    assert codes.shape == (1, 1, int(codec.num_tokens(samples)))
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < c.codebook_size
    expected = samples * c.output_sampling_rate // c.sampling_rate
    assert codec.decode(codes, num_samples=samples).audio_values.shape == (1, 1, expected)
    per_token = 320 * c.output_sampling_rate // c.sampling_rate
    assert codec.decode(codes).audio_values.shape == (1, 1, codes.shape[2] * per_token)


def test_a_batch_gives_what_single_items_give(codec):
    lengths = [5000, 1, 2320]
    wave = noise(3, 1, 5000)
    out = codec.encode(wave, torch.arange(5000) < torch.tensor(lengths)[:, None])
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    for i, length in enumerate(lengths):
        alone = codec.encode(wave[i : i + 1, :, :length]).audio_codes
        assert torch.equal(out.audio_codes[i][:, out.audio_codes_mask[i]], alone[0])
        audio = codec.decode(alone, num_samples=length).audio_values[0, 0]
        assert torch.equal(decoded.audio_values[i, 0][decoded.padding_mask[i]], audio)


def test_save_and_load_through_the_audio_tokenizer(codec, tmp_path):
    tok = AudioTokenizer(copy.deepcopy(codec))
    assert (tok.num_codebooks, tok.frame_rate, tok.sampling_rate) == (1, 50, 16000)
    tok.save_pretrained(tmp_path)
    again = AudioTokenizer.from_pretrained(tmp_path)
    assert type(again.codec) is type(codec)
    extractor = codec.make_feature_extractor()
    assert again.codec.make_feature_extractor().to_dict() == type(extractor).from_pretrained(tmp_path).to_dict()
    wave = noise(9001)
    ids = again(wave)["input_ids"]
    assert torch.equal(ids, tok(wave)["input_ids"])
    assert again.decode(ids[0], num_samples=9001).shape == (9001 * tok.output_sampling_rate // 16000,)
    assert again.output_sampling_rate == (24000 if type(codec) is NeuCodec else 16000)


@pytest.mark.parametrize("samples", [16000 * 3, 16000 * 3 + 5])
def test_a_long_file_gets_as_many_tokens_as_one_pass_gives(codec, samples):
    codes = encode_long(codec, noise(1, samples), window_s=1.0, context_s=0.2)
    assert codes.shape == (1, 1, int(codec.num_tokens(samples)))


def test_code_vectors_are_the_points_of_a_grid(codec):
    (table,) = codec.code_vectors()
    assert table.shape == (4 * 4 * 3, 3)
    assert len(table.unique(dim=0)) == len(table)
    assert table.abs().max() <= 1
