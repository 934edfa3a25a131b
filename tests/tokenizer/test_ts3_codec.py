"""TS3-Codec with random weights (none were published): the published sizes, streaming, folders."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.ts3_codec import TS3Codec, TS3CodecConfig, TS3CodecModel

TINY = {
    "frame_size": 40,
    "frame_hidden": 24,
    "dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 48,
    "window": 5,
    "codebook_size": 64,
    "codebook_dim": 4,
}


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return TS3Codec(TS3CodecModel(TS3CodecConfig(**TINY)))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


def test_the_published_numbers():
    with torch.device("meta"):
        codec = TS3Codec(TS3CodecModel(TS3CodecConfig()))
    size = sum(p.numel() for p in codec.model.parameters())
    assert abs(size / 204e6 - 1) < 0.005
    tok = AudioTokenizer(codec)
    assert (tok.frame_rate, tok.bits_per_second, tok.num_codebooks) == (50, 850, 1)


@pytest.mark.parametrize("samples", [1, 39, 40, 41, 799, 12345])
def test_counts_and_lengths(codec, samples):
    out = codec.encode(noise(1, 1, samples))
    assert out.audio_codes.shape == (1, 1, -(-samples // 40))
    assert codec.decode(out.audio_codes, num_samples=samples).audio_values.shape == (1, 1, samples)
    assert codec.decode(out.audio_codes).audio_values.shape[-1] == out.audio_codes.shape[-1] * 40
    assert samples < 799 or out.audio_codes.unique().numel() > 3  # random weights do tell frames apart


@pytest.mark.parametrize("frames", [1, 2, 7, 23])
def test_a_stream_equals_one_pass(codec, frames):
    wave = noise(2, 1, 40 * 23 - 11)
    with torch.no_grad():
        codes = codec.model.encode(wave)
        audio = codec.model.decode(codes)
    stream = codec.model.stream(2)
    streamed = torch.cat([stream.encode(chunk) for chunk in wave.split(40 * frames, dim=2)], dim=2)
    assert torch.equal(streamed, codes)
    decoded = torch.cat([stream.decode(chunk) for chunk in codes.split(frames, dim=2)], dim=2)
    torch.testing.assert_close(decoded, audio, atol=1e-5, rtol=0)
    num_past_frames = {k.shape[2] for state in (stream.encoding, stream.decoding) for k, _ in state.key_values.values()}
    assert num_past_frames == {4}
    with pytest.raises(ValueError, match="ended the stream"):
        stream.encode(wave[..., :40])
    with pytest.raises(ValueError, match="a chunk must be"):
        stream.decode(codes[:1])


def test_frames_depend_on_the_window_and_not_on_the_future(codec):
    wave = noise(1, 1, 40 * 30)
    changed = wave.clone()
    changed[..., 40 * 15 : 40 * 16] += 1
    with torch.no_grad():
        before, after = (
            codec.model.encoder(codec.model.frame_in(w.unflatten(2, (-1, 40))[:, 0])) for w in (wave, changed)
        )
    moved = (before - after).abs().amax(-1)[0] > 1e-6
    assert not moved[:15].any()
    assert moved[15:23].any()
    assert not moved[15 + 2 * 4 + 1 :].any()  # two layers of four frames back


def test_a_batch_gives_what_single_items_give(codec):
    lengths = [900, 1, 333]
    wave = noise(3, 1, 900)
    out = codec.encode(wave, torch.arange(900) < torch.tensor(lengths)[:, None])
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    for i, length in enumerate(lengths):
        single = codec.encode(wave[i : i + 1, :, :length])
        assert torch.equal(out.audio_codes[i][:, out.audio_codes_mask[i]], single.audio_codes[0])
        alone = codec.decode(single.audio_codes, num_samples=length).audio_values
        assert torch.equal(decoded.audio_values[i, 0, :length], alone[0, 0])


def test_codes_are_the_nearest_by_direction(codec):
    x = noise(1, 600, 32)  # more than are compared at a time
    with torch.no_grad():
        codes = codec.model.quantizer.to_codes(x)
        narrow = codec.model.quantizer.project_in(x)
    similarity = torch.cosine_similarity(narrow[:, :, None], codec.code_vectors()[0], dim=-1)
    chosen = similarity.gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(chosen, similarity.amax(-1), atol=1e-6, rtol=0)


def test_it_can_be_trained(codec):
    wave = noise(1, 1, 400)
    model = TS3CodecModel(TS3CodecConfig(**TINY))
    (model.decode(model.encode(wave)) - wave).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.decoder.parameters())
    assert model.frame_out[2].weight.grad.abs().sum() > 0


def test_save_and_load_through_the_audio_tokenizer(codec, tmp_path):
    tok = AudioTokenizer(codec)
    tok.save_pretrained(tmp_path)
    again = AudioTokenizer.from_pretrained(tmp_path)
    wave = noise(901)
    ids = tok(wave)["input_ids"]
    assert torch.equal(again(wave)["input_ids"], ids)
    assert (again.decode(ids[0], 901) == tok.decode(ids[0], 901)).all()
    with pytest.raises(ValueError, match="num_codebooks must lie in"):
        AudioTokenizer.from_pretrained(tmp_path, num_codebooks=2)
    tensors = {key: tensor.clone() for key, tensor in load_file(tmp_path / "model.safetensors").items()}
    del tensors["encoder.norm.weight"]
    save_file(tensors | {"extra": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: \['encoder\.norm\.weight'\].*left over: \['extra'\]"):
        AudioTokenizer.from_pretrained(tmp_path)


def test_a_hub_id_explains_that_nothing_was_published(tmp_path):
    with pytest.raises(OSError, match="published neither code nor weights"):
        TS3Codec.from_pretrained("someone/ts3-codec", local_files_only=True, cache_dir=tmp_path)


def test_refuses_heads_of_odd_width():
    with pytest.raises(ValueError, match="multiple of 2 num_heads"):
        TS3CodecConfig(dim=15, num_heads=3)
