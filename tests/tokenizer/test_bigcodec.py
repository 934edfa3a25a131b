"""BigCodec: golden tensors of the reference (small sizes, random weights), the published keys, faulty files."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.bigcodec import BigCodec, BigCodecConfig, BigCodecModel, convert_config
from focallm.tokenizer.codecs.checkpoint import fold_weight_norm

FIXTURES = Path(__file__).parent.parent / "fixtures" / "codecs"
GOLDEN = FIXTURES / "bigcodec"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def codec():
    return BigCodec.from_pretrained(GOLDEN)


def close(found, expected, atol):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@torch.no_grad()
def test_stages_equal_the_reference(codec, golden):
    x = golden["wav_padded"]
    first = codec.model.CodecEnc.block[0](x)
    activated = codec.model.CodecEnc.block[1].block[0].block[0](first)
    close(activated, golden["stage.CodecEnc.1.block.0.block.0"], 1e-5)
    for i, module in enumerate(codec.model.CodecEnc.block):
        x = module(x)
        if i:
            close(x, golden[f"stage.CodecEnc.{i}"], 5e-5)
    quantizer = codec.model.generator.quantizer
    close(quantizer.layers[0].in_proj(x.mT).mT, golden["stage.latents"], 5e-5)
    x = quantizer.decode(golden["codes"].transpose(0, 1))
    close(x, golden["quantized"], 5e-6)
    close(x, golden["quantized_from_codes"], 5e-6)
    for i, module in enumerate(codec.model.generator.model):
        x = module(x)
        if i < 5:
            close(x, golden[f"stage.generator.{i}"], 5e-5)
    close(x, golden["rec"], 5e-5)


@pytest.mark.parametrize("name", ["", "short1.", "short2.", "short3."])
@torch.no_grad()
def test_codes_and_audio_equal_the_reference(codec, golden, name):
    model, wave, codes = codec.model, golden[f"{name}wav"], golden[f"{name}codes"].transpose(0, 1)
    padded = torch.nn.functional.pad(wave, (0, -wave.shape[-1] % 200))
    close(model.extract_features(padded), golden[f"{name}feats"], 5e-5)
    assert torch.equal(model.encode(wave), codes)
    close(model.decode(codes), golden[f"{name}rec"], 5e-5)


@torch.no_grad()
def test_without_padding(codec, golden):
    features = codec.model.extract_features(golden["wav"])
    codes = codec.model.generator.quantizer.encode(features)
    close(features, golden["nopad.feats"], 5e-5)
    assert torch.equal(codes, golden["nopad.codes"].transpose(0, 1))
    close(codec.model.decode(codes), golden["nopad.rec"], 5e-5)


@pytest.mark.parametrize("samples", [1, 199, 200, 201, 3017])
def test_counts_and_lengths(codec, samples):
    out = codec.encode(torch.randn(1, 1, samples))
    assert out.audio_codes.shape == (1, 1, int(codec.num_tokens(samples))) == (1, 1, -(-samples // 200))
    assert codec.decode(out.audio_codes, num_samples=samples).audio_values.shape == (1, 1, samples)
    assert codec.decode(out.audio_codes).audio_values.shape == (1, 1, 200 * out.audio_codes.shape[-1])


def test_a_batch_gives_what_single_items_give(codec, golden):
    lengths = [3017, 1]
    mask = torch.arange(3017) < torch.tensor(lengths)[:, None]
    out = codec.encode(golden["wav"], mask)
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    for i, length in enumerate(lengths):
        single = codec.encode(golden["wav"][i : i + 1, :, :length]).audio_codes
        assert torch.equal(out.audio_codes[i][:, out.audio_codes_mask[i]], single[0])
        alone = codec.decode(single, num_samples=length).audio_values
        assert torch.equal(decoded.audio_values[i, 0, :length], alone[0, 0])


def test_save_and_load_through_the_audio_tokenizer(golden, tmp_path):
    tok = AudioTokenizer.from_pretrained(GOLDEN)
    assert isinstance(tok.codec, BigCodec)
    assert (tok.sampling_rate, tok.frame_rate, tok.vocab_size) == (16000, 80.0, 128)
    tok.save_pretrained(tmp_path)
    again = AudioTokenizer.from_pretrained(tmp_path)
    wave = golden["wav"][0, 0]
    ids = tok(wave)["input_ids"]
    assert torch.equal(ids, golden["codes"][:, 0])
    assert torch.equal(again(wave)["input_ids"], ids)
    assert (again.decode(ids[0], num_samples=3017) == tok.decode(ids[0], num_samples=3017)).all()
    for name, tensor in tok.codec.model.state_dict().items():
        assert torch.equal(again.codec.model.state_dict()[name], tensor)


def test_the_vectors_of_the_codes(codec):
    (vectors,) = codec.code_vectors()
    assert vectors.shape == (128, 8)
    stored = load_file(GOLDEN / "model.safetensors")
    assert torch.equal(vectors, stored["generator.quantizer.layers.0._codebook.weight"])


def test_keys_and_shapes_of_the_published_checkpoint():
    recorded = json.loads(gzip.decompress((FIXTURES / "bigcodec_keys.json.gz").read_bytes()))
    official = {key: torch.empty(shape, device="meta") for key, shape in recorded.items()}
    with torch.device("meta"):
        model = BigCodecModel(BigCodecConfig())
    expected = {key: tensor.shape for key, tensor in fold_weight_norm(official).items()}
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == expected
    assert len(recorded) == 533
    assert sum(tensor.numel() for tensor in official.values()) == 159_438_018


def test_the_constant_filter_is_that_of_the_checkpoint():
    stored = load_file(GOLDEN / "model.safetensors")["CodecEnc.block.7.upsample.filter"]
    model = BigCodecModel(convert_config(json.loads((GOLDEN / "config.json").read_text())))
    close(model.CodecEnc.block[7].upsample.filter, stored, 1e-7)


def test_other_spellings_of_the_official_layout(golden, tmp_path):
    tensors = load_file(GOLDEN / "model.safetensors")
    renamed = {}
    for key, tensor in tensors.items():
        key = key.replace("weight_g", "parametrizations.weight.original0")
        renamed[key.replace("weight_v", "parametrizations.weight.original1")] = tensor
    save_file(renamed | {"discriminator.a": torch.zeros(1)}, tmp_path / "bigcodec.safetensors")
    shutil.copy(GOLDEN / "config.json", tmp_path)
    codec = BigCodec.from_pretrained(tmp_path)
    assert torch.equal(codec.model.encode(golden["wav"]), golden["codes"].transpose(0, 1))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("missing", ValueError, r"1 keys missing: \['CodecEnc.block.0.bias'\]"),
        ("missing gain", ValueError, "lack CodecEnc.block.0.weight_g, half of a layer"),
        ("extra", ValueError, r"1 keys left over: \['generator.more'\]"),
        ("shape", ValueError, r"another shape: \['CodecEnc.block.0.bias"),
        ("gain", ValueError, r"CodecEnc.block.0.weight_g has the shape \(3, 3\)"),
        ("pickle", OSError, "never loaded: convert it"),
        ("renamed pickle", ValueError, "cannot be read"),
        ("halves", ValueError, "dilations is"),
        ("option", ValueError, "rnn_bidirectional is True"),
    ],
)
def test_refuses_faulty_folders(tmp_path, fault, error, words):
    config = json.loads((GOLDEN / "config.json").read_text())
    tensors = load_file(GOLDEN / "model.safetensors")
    if fault == "missing":
        del tensors["CodecEnc.block.0.bias"]
    elif fault == "missing gain":
        del tensors["CodecEnc.block.0.weight_g"]
    elif fault == "extra":
        tensors["generator.more"] = torch.zeros(1)
    elif fault == "shape":
        tensors["CodecEnc.block.0.bias"] = torch.zeros(7)
    elif fault == "gain":
        tensors["CodecEnc.block.0.weight_g"] = torch.zeros(3, 3)
    elif fault == "halves":
        config["codec_decoder"]["dilations"] = [1, 2, 3]
    elif fault == "option":
        config["codec_encoder"]["rnn_bidirectional"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    if fault == "pickle":
        torch.save({"CodecEnc": {}}, tmp_path / "bigcodec.pt")
    elif fault == "renamed pickle":
        torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(error, match=words) as caught:
        AudioTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_refuses_more_codebooks_than_there_are():
    with pytest.raises(ValueError, match=r"must lie in 1 ... 1 "):
        BigCodec.from_pretrained(GOLDEN, num_codebooks=2)
