"""SemantiCodec with a stand-in for the package of its authors: calls, lengths, options and saved files."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.chunk_decoder import ChunkDecoder
from focallm.tokenizer.long_audio import decode_long, encode_long

SEGMENT, PATCH = 163840, 2560
FRAMES = {25: 2, 50: 4, 100: 8}  # token rate -> frames in 0.16 s


class Encoder(nn.Module):
    """Its semantic code is the loudness of a frame, and its acoustic code the band."""

    def __init__(self, token_rate, semantic_size):
        super().__init__()
        self.per_segment = 64 * FRAMES[token_rate]
        self.codebook_size = 8192
        self.centroid_npy = torch.arange(2.0 * semantic_size).view(-1, 2)
        self.table = nn.Parameter(-torch.arange(2.0 * 8192).view(-1, 2))
        self.quantizer = SimpleNamespace(get_output_from_indices=lambda codes: self.table[codes])

    def forward(self, mel):
        assert mel.shape[0] == 1
        assert mel.shape[1] % 1024 == 0
        assert mel.shape[2] == 128
        loud = mel[0].abs().mean(1).unflatten(0, (-1, 1024))
        loud = loud.unflatten(1, (self.per_segment, -1)).mean(2).flatten()
        bands = torch.arange(len(loud)) % 4
        return torch.stack([(loud * 1000).long() % 4096, bands], 1)[None]


class Official(nn.Module):
    def __init__(self, token_rate, semantic_vocab_size, ddim_sample_step, cfg_scale, checkpoint_path, cache_path):
        super().__init__()
        print("welcome")
        self.asked = (token_rate, semantic_vocab_size, ddim_sample_step, cfg_scale, checkpoint_path, cache_path)
        self.samples = PATCH // FRAMES[token_rate]
        self.encoder = Encoder(token_rate, semantic_vocab_size)
        self.decoder = nn.Linear(1, 1)

    def decode(self, tokens):
        assert tokens.shape[0] == 1
        assert tokens.shape[2] == 2
        assert torch.equal(tokens[0, :, 1], torch.arange(tokens.shape[1]) % 4)  # begins with a whole block
        noise = torch.randn(1, 1, tokens.shape[1] * self.samples - 1)  # float rounding may take one sample
        return (noise + tokens[0, :, 0].repeat_interleave(self.samples)[:-1] / 4096).numpy()


def filterbank(wave, rate, target_length):
    assert rate == 16000
    frames = wave[0].unflatten(0, (target_length, -1))
    return {"ta_kaldi_fbank": frames[:, :128]}


@pytest.fixture(autouse=True)
def package(monkeypatch):
    package = ModuleType("semanticodec")
    package.SemantiCodec = Official
    utils = ModuleType("semanticodec.utils")
    utils.extract_kaldi_fbank_feature = filterbank
    monkeypatch.setitem(sys.modules, "semanticodec", package)
    monkeypatch.setitem(sys.modules, "semanticodec.utils", utils)


@pytest.fixture
def tokenizer():
    return AudioTokenizer.from_pretrained("semanticodec")


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.mark.parametrize("rate", FRAMES)
@pytest.mark.parametrize("size", [4096, 8192, 16384])
def test_the_published_numbers_and_unequal_codebooks(rate, size):
    tok = AudioTokenizer.from_pretrained("semanticodec", token_rate=rate, semantic_vocab_size=size)
    assert (tok.tokens_per_second, tok.num_codebooks, tok.codebook_sizes) == (rate, 2, (size, 8192))
    assert tok.bits_per_second == rate / 2 * (np.log2(size) + 13)
    assert tok.vocab_size == size + 8192
    ids = tok(noise(5000), 16000)["input_ids"][0]
    assert len(ids) == 2 * 2 * FRAMES[rate]
    assert (ids[1::2] >= size).all()
    assert tok.decode(ids, num_samples=5000).shape == (5000,)


@pytest.mark.parametrize("samples", [1, 123, PATCH - 1, PATCH, PATCH + 1, 40000, SEGMENT - 1, SEGMENT, SEGMENT + 1])
def test_counts_and_lengths(tokenizer, samples):
    codec = tokenizer.codec
    out = codec.encode(noise(samples)[None, None])
    assert out.audio_codes.shape == (1, 2, 4 * (samples // PATCH + 1))
    assert int(codec.num_tokens(samples)) == out.audio_codes.shape[2]
    assert codec.decode(out.audio_codes).audio_values.shape[-1] == out.audio_codes.shape[2] * 640
    assert codec.decode(out.audio_codes, num_samples=samples).audio_values.shape[-1] == samples


def test_a_batch_gives_what_single_items_give(tokenizer):
    waves = [noise(n, n) for n in (3000, 200000, 1)]
    batch = tokenizer(waves, 16000)
    again = tokenizer.batch_decode(batch["input_ids"], batch["attention_mask"], batch["num_samples"])
    for wave, ids, mask, sound in zip(waves, batch["input_ids"], batch["attention_mask"], again, strict=True):
        single = tokenizer(wave, 16000)["input_ids"][0]
        assert torch.equal(ids[mask.bool()], single)
        assert np.array_equal(sound, tokenizer.decode(single, num_samples=len(wave)))


def test_decoding_depends_on_codes_and_seed_only_and_keeps_the_global_random_state(tokenizer):
    ids = tokenizer(noise(9000), 16000)["input_ids"]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = tokenizer.decode(ids)
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(first, tokenizer.decode(ids))
    assert not np.array_equal(first, AudioTokenizer.from_pretrained("semanticodec", seed=1).decode(ids))


def test_windows_and_chunks_begin_with_whole_blocks(tokenizer):
    codec = tokenizer.codec
    wave = noise(16000 * 9 + 77)
    codes = codec.encode(wave[None])["audio_codes"]
    windows = encode_long(codec, wave[None], window_s=2.1, context_s=0.7)
    assert torch.equal(windows[:, 1], codes[:, 1])
    assert decode_long(codec, codes, len(wave), 2.1, 0.7).shape == (1, len(wave))
    decoder = ChunkDecoder(tokenizer, context_s=1.3, lookahead_s=0.1)
    ids = tokenizer.pattern.apply(codes[0])
    pieces = [decoder.push(piece) for piece in ids.split(37)] + [decoder.finish()]
    assert sum(map(len, pieces)) == codes.shape[2] * 640


def test_code_vectors_are_the_tables_of_the_package(tokenizer):
    semantic, acoustic = tokenizer.codec.code_vectors()
    assert semantic.shape == acoustic.shape == (8192, 2)
    assert (semantic[3, 1], acoustic[3, 1]) == (7, -7)
    assert any(key.endswith("centroid_npy") for key in tokenizer.codec.state_dict())  # hashed and moved with the rest


def test_options_reach_the_package_and_its_greeting_stays_off_stdout(tmp_path, capsys):
    options = {"token_rate": 100, "semantic_vocab_size": 16384, "ddim_steps": 7, "cfg_scale": 3.0}
    tok = AudioTokenizer.from_pretrained("semanticodec", **options, cache_dir=tmp_path)
    assert tok.codec.model.official.asked == (100, 16384, 7, 3.0, None, str(tmp_path))
    assert capsys.readouterr().out == ""


def test_options_are_saved_and_weights_beside_them_are_used(tmp_path):
    tok = AudioTokenizer.from_pretrained("semanticodec", token_rate=25, semantic_vocab_size=4096, seed=3)
    tok.save_pretrained(tmp_path / "saved")
    files = {"README.md", "config.json", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == files
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (saved["model_type"], saved["codebook_sizes"]) == ("focallm_semanticodec", [4096, 8192])
    again = AudioTokenizer.from_pretrained(tmp_path / "saved")
    assert again.codec.model.official.asked[:5] == (25, 4096, 50, 2.0, None)
    ids = tok(noise(9000), 16000)["input_ids"]
    assert np.array_equal(tok.decode(ids), again.decode(ids))
    assert AudioTokenizer.from_pretrained(tmp_path / "saved", token_rate=50).tokens_per_second == 50
    (tmp_path / "saved" / "encoder.ckpt").touch()
    beside = AudioTokenizer.from_pretrained(tmp_path / "saved")
    assert beside.codec.model.official.asked[4] == str(tmp_path / "saved")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 1}, "num_codebooks=1"),
        ({"token_rate": 75}, "token_rate must be one of"),
        ({"semantic_vocab_size": 1000}, "semantic_vocab_size must be one of"),
        ({"steps": 20}, "no options \\['steps'\\]"),
    ],
)
def test_refuses_options_that_were_not_published(options, message):
    with pytest.raises(ValueError, match=message):
        AudioTokenizer.from_pretrained("semanticodec", **options)


def test_refuses_a_code_beyond_its_own_codebook():
    codec = AudioTokenizer.from_pretrained("semanticodec", semantic_vocab_size=4096).codec
    codes = torch.zeros(1, 2, 4, dtype=torch.long)
    codes[0, 0, 1] = 5000
    with pytest.raises(ValueError, match="audio_codes must be"):
        codec.decode(codes)


def test_without_the_package_the_error_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "semanticodec", None)
    with pytest.raises(ImportError, match=r"pip install git\+https://github.com/haoheliu/SemantiCodec-inference"):
        AudioTokenizer.from_pretrained("semanticodec")
