"""WavLM6-KM: golden tensors of the reference (small sizes, random weights), WavLM as in transformers, faulty files."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WavLMConfig, WavLMModel

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs import wavlm_km_checkpoint
from focallm.tokenizer.codecs.checkpoint import fold_weight_norm
from focallm.tokenizer.codecs.wavlm_km import WavLMKM, WavLMKMConfig, WavLMKMModel
from focallm.tokenizer.codecs.wavlm_km_checkpoint import find_published_layers, official_name

FIXTURES = Path(__file__).parent.parent / "fixtures" / "codecs"
GOLDEN = FIXTURES / "wavlm_km"
FILES = ("quantizer_6.safetensors", "dequantizer_6.safetensors", "vocoder_6.safetensors")


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def decoder():
    return WavLMKM.from_pretrained(GOLDEN)


def tiny_wavlm():
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=8, num_attention_heads=4, intermediate_size=48, conv_dim=(12,) * 7,
        do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=False,
    )  # fmt: skip
    model = WavLMModel(config).eval()
    for parameter in model.parameters():  # zero biases and a gate of one would hide a fault
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def wavlm():
    return tiny_wavlm()


@pytest.fixture(scope="module")
def whole(wavlm, tmp_path_factory):
    """The golden files in the layout of the hub, with a tiny WavLM and some of its features as centroids."""
    folder = tmp_path_factory.mktemp("wavlm_km")
    for name in (*FILES, "config.json"):
        shutil.copy(GOLDEN / name, folder)
    features = reference_features(wavlm, noise(16000), (6,))[0, :, :, 0]
    save_file({"kmeanss.0.centroids": features[::2][:24].contiguous()}, folder / FILES[0])
    wavlm.save_pretrained(folder / "wavlm-large")
    return folder


@pytest.fixture(scope="module")
def codec(whole):
    return WavLMKM.from_pretrained(whole)


@torch.no_grad()
def reference_features(wavlm, waveform, layers):
    """Normalize each waveform, and return the outputs of the layers by transformers, (B, N, D, K)."""
    rows = waveform[:, 0]
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    states = wavlm(rows, output_hidden_states=True).hidden_states
    return torch.stack([states[i] for i in layers], dim=-1)


def noise(samples, batch=1):
    return 3 + torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples))


def close(found, expected, atol):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@torch.no_grad()
def test_codes_features_and_audio_equal_the_reference(decoder, golden):
    model = decoder.model
    codes = model.quantizer.encode(golden["feats"][..., None])
    assert torch.equal(codes[:, 0], golden["toks"])
    vectors = model.quantizer.decode(codes)
    assert torch.equal(vectors[..., 0], golden["qfeats"])
    close(model.dequantizer(vectors)[..., 0], golden["rec_feats"], 5e-6)
    close(model.decode(codes)[:, 0], golden["rec_sig"], 5e-6)
    close(model.decode(golden["min.toks"][:, None])[:, 0], golden["min.rec_sig"], 5e-6)


@torch.no_grad()
def test_stages_equal_the_reference(decoder, golden):
    dequantizer, vocoder = decoder.model.dequantizer, decoder.model.vocoder.generator
    x = dequantizer.frontend(decoder.model.quantizer.decode(golden["min.toks"][:, None]))[..., 0]
    close(x, golden["stage.frontend"], 1e-5)
    x = dequantizer.in_proj(x)
    close(x, golden["stage.src"], 1e-5)
    x = x + dequantizer.positions[:, :4]
    first = dequantizer.layers[0]
    y = first.first_half(x)
    close(y, golden["stage.layers.0.ffn_module1"], 1e-5)
    y = x + 0.5 * y
    attended = first.attention(first.attention_norm(y), None)
    close(attended, golden["stage.layers.0.mha"], 1e-5)
    close(first.convolution(y + attended, None), golden["stage.layers.0.conv"], 1e-5)
    for i, layer in enumerate(dequantizer.layers):
        x = layer(x, None)
        close(x, golden[f"stage.layers.{i}"], 1e-5)
    x = dequantizer.norm(x)
    close(x, golden["stage.encoder_norm"], 1e-5)
    x = dequantizer.head(x)
    close(x, golden["stage.head"], 1e-5)
    x = vocoder.in_conv(decoder.model.vocoder.in_proj(dequantizer.backend(x[..., None]))[..., 0].mT)
    close(x, golden["stage.vocoder.conv_pre"], 1e-5)
    for i, (upscale, fusion) in enumerate(zip(vocoder.upscales, vocoder.fusions, strict=True)):
        x = upscale(torch.nn.functional.leaky_relu(x, 0.1))
        close(x, golden[f"stage.vocoder.ups.{i}"], 1e-5)
        if i == 0:
            for j, branch in enumerate(fusion.branches):
                close(branch(x, None), golden[f"stage.vocoder.resblocks.{j}"], 1e-5)
        x = fusion(x, None)
    close(vocoder.out_conv(torch.nn.functional.leaky_relu(x, 0.01)), golden["stage.vocoder.conv_post"], 1e-5)


@torch.no_grad()
def test_real_frames_of_a_padded_batch_equal_single_items(decoder, golden):
    vectors, lengths = decoder.model.quantizer.decode(golden["batch.toks"][:, None]), torch.tensor([40, 25])
    batch = decoder.model.dequantizer(vectors, lengths)
    for item, x, length in zip(batch, vectors, lengths, strict=True):
        close(item[:length], decoder.model.dequantizer(x[None, :length])[0], 5e-6)
    # The reference's convolutions see padding, so that only its unpadded item is comparable.
    close(batch[0, ..., 0], golden["batch.rec_feats"][0], 5e-6)


@pytest.mark.parametrize("samples", [400, 719, 720, 16000])
@pytest.mark.parametrize("layers", [(6,), (1, 3, 6)])
@torch.no_grad()
def test_features_are_those_of_transformers(monkeypatch, wavlm, codec, samples, layers):
    monkeypatch.setattr(codec.model.config, "layer_ids", layers)
    found = codec.model.extract_features(noise(samples, batch=2))
    close(found, reference_features(wavlm, noise(samples, batch=2), layers), 2e-5)


@torch.no_grad()
def test_waveforms_are_normalized_unless_the_preprocessor_config_disables_it(wavlm, whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "wavlm-large" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    found = WavLMKM.from_pretrained(tmp_path).model.extract_features(noise(2000))[..., 0]
    close(found, wavlm(noise(2000)[:, 0], output_hidden_states=True).hidden_states[6], 2e-5)


@pytest.mark.parametrize("samples", [1360, 1679, 1680, 16000])
def test_counts_and_lengths(codec, samples):
    codes = codec.encode(noise(samples)).audio_codes
    assert codes.shape == (1, 1, int(codec.num_tokens(samples))) == (1, 1, (samples - 400) // 320 + 1)
    assert codec.decode(codes).audio_values.shape == (1, 1, 320 * codes.shape[-1])
    assert codec.decode(codes, num_samples=samples).audio_values.shape == (1, 1, samples)


def test_a_batch_gives_what_single_items_give(codec):
    waves, lengths = noise(9000, batch=2), [9000, 1361]
    out = codec.encode(waves, torch.arange(9000) < torch.tensor(lengths)[:, None])
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    assert len(out.audio_codes.unique()) > 3
    for i, length in enumerate(lengths):
        single = codec.encode(waves[i : i + 1, :, :length]).audio_codes
        assert torch.equal(out.audio_codes[i][:, out.audio_codes_mask[i]], single[0])
        alone = codec.decode(single, num_samples=length).audio_values
        assert torch.equal(decoded.audio_values[i, 0, :length], alone[0, 0])


def test_save_and_load_through_the_audio_tokenizer(whole, tmp_path):
    tok = AudioTokenizer.from_pretrained(whole)
    assert isinstance(tok.codec, WavLMKM)
    assert (tok.sampling_rate, tok.frame_rate, tok.vocab_size) == (16000, 50.0, 24)
    tok.save_pretrained(tmp_path)
    again, wave = AudioTokenizer.from_pretrained(tmp_path), noise(5000)[0, 0]
    ids = tok(wave)["input_ids"]
    assert ids.shape == (1, 15)
    assert torch.equal(again(wave)["input_ids"], ids)
    assert (again.decode(ids[0], num_samples=5000) == tok.decode(ids[0], num_samples=5000)).all()
    for name, tensor in tok.codec.model.state_dict().items():
        assert torch.equal(again.codec.model.state_dict()[name], tensor)


def test_without_a_wavlm_it_only_decodes(decoder, golden, tmp_path, caplog):
    tok = AudioTokenizer.from_pretrained(GOLDEN)
    assert "can only decode" in caplog.text
    wave = tok.decode(golden["toks"][0])
    close(torch.from_numpy(wave), golden["rec_sig"][0], 5e-6)
    tok.save_pretrained(tmp_path)
    assert (AudioTokenizer.from_pretrained(tmp_path).decode(golden["toks"][0]) == wave).all()
    with pytest.raises(ValueError, match="into a folder wavlm-large beside"):
        tok(noise(2000)[0, 0])


def test_wavlm_comes_from_the_hub_if_it_is_not_beside_the_codec(monkeypatch, whole):
    monkeypatch.setattr(wavlm_km_checkpoint, "WAVLM_HUB_ID", str(whole / "wavlm-large"))
    monkeypatch.setattr(wavlm_km_checkpoint, "WAVLM_WIDTH", 32)
    assert WavLMKM.from_pretrained(GOLDEN).encode(noise(2000)).audio_codes.shape == (1, 1, 6)


def test_one_file_and_both_spellings_of_weight_norm_are_the_same_model(decoder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path)
    state = WavLMKM.from_pretrained(tmp_path).model.state_dict()
    for key, tensor in decoder.model.state_dict().items():
        assert torch.equal(state[key], tensor), key


def test_keys_and_shapes_of_the_published_files():
    recorded = json.loads(gzip.decompress((FIXTURES / "wavlm_km_keys.json.gz").read_bytes()))
    assert {file: len(keys) for file, keys in recorded.items()} == {
        "quantizer_6": 1, "dequantizer_6": 191, "vocoder_6": 236, "vocoder_6.parametrized": 236
    }  # fmt: skip
    with torch.device("meta"):
        ours = WavLMKMModel(WavLMKMConfig(decoder_only=True)).state_dict()
    found = {official_name(key, 3): tensor.numel() for key, tensor in ours.items()}
    for vocoder in ("vocoder_6", "vocoder_6.parametrized"):
        official = {
            f"{file.partition('_')[0]}.{key}": torch.empty(shape, device="meta")
            for file in ("quantizer_6", "dequantizer_6", vocoder)
            for key, shape in recorded[file].items()
        }
        assert found == {key: tensor.numel() for key, tensor in fold_weight_norm(official).items()}


def test_the_positions_of_a_new_model_are_those_of_the_file(decoder):
    with torch.random.fork_rng():
        new = WavLMKMModel(decoder.model.config)
    close(new.dequantizer.positions, decoder.model.dequantizer.positions, 1e-5)


@pytest.mark.parametrize(("files", "books", "layers"), [
    (("6", "1-3-6"), None, (6,)), (("6", "1-3-6"), 3, (1, 3, 6)), (("1-3-6",), None, (1, 3, 6)), (("6",), 3, None),
])  # fmt: skip
def test_which_published_model_is_found(tmp_path, files, books, layers):
    for name in files:
        (tmp_path / f"quantizer_{name}.safetensors").touch()
    assert find_published_layers(tmp_path, books, {}) == layers


def test_a_folder_without_config_has_the_published_sizes(monkeypatch, tmp_path):
    monkeypatch.setattr(wavlm_km_checkpoint, "WAVLM_HUB_ID", str(tmp_path / "nothing"))
    for name in FILES:
        shutil.copy(GOLDEN / name, tmp_path)
    with pytest.raises(ValueError, match=r"quantizer.kmeanss.0.centroids \(24, 32\) instead of \(512, 1024\)"):
        AudioTokenizer.from_pretrained(tmp_path)


def test_three_layers_have_a_codebook_each_and_go_together(whole, tmp_path):
    shutil.copytree(whole / "wavlm-large", tmp_path / "wavlm-large")
    config = json.loads((GOLDEN / "config.json").read_text()) | {"layer_ids": [1, 3, 6]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mixing = {"dequantizer.frontend.weight": (1, 3), "dequantizer.backend.weight": (3, 1),
              "dequantizer.backend.bias": (3,), "vocoder.in_proj.weight": (1, 3)}  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(GOLDEN / "model.safetensors")
    tensors |= {f"quantizer.kmeanss.{k}.centroids": torch.randn(24, 32, generator=generator) for k in range(3)}
    tensors |= {key: torch.randn(shape, generator=generator) for key, shape in mixing.items()}
    for part in ("quantizer", "dequantizer", "vocoder"):
        inside = {key.removeprefix(f"{part}."): t for key, t in tensors.items() if key.startswith(f"{part}.")}
        save_file(inside, tmp_path / f"{part}_1-3-6.safetensors")
    tok = AudioTokenizer.from_pretrained(tmp_path)
    assert (tok.num_codebooks, tok.vocab_size) == (3, 72)
    codes = tok.codec.encode(noise(4000)).audio_codes
    features = tok.codec.model.extract_features(noise(4000))
    for k, vectors in enumerate(tok.codec.code_vectors()):
        assert torch.equal(codes[0, k], torch.cdist(features[0, :, :, k], vectors).argmin(-1))
    assert tok.codec.decode(codes, num_samples=4000).audio_values.shape == (1, 1, 4000)
    with pytest.raises(ValueError, match="3 codebooks of this WavLM-KM are decoded together"):
        AudioTokenizer.from_pretrained(tmp_path, num_codebooks=1)


def test_equally_near_clusters_give_the_lowest_code(decoder, golden):
    kmeans = WavLMKM.from_pretrained(GOLDEN).model.quantizer.kmeanss[0]
    kmeans.centroids[5] = kmeans.centroids[3]
    assert kmeans.encode(kmeans.centroids[None]).tolist() == [[0, 1, 2, 3, 4, 3, *range(6, 24)]]


# 1024 is also the width of the published features; frames and features must not be confused.
@pytest.mark.parametrize("frames", [1024, 1025])
def test_any_number_of_codes_becomes_as_many_vectors(decoder, frames):
    assert decoder.model.quantizer.decode(torch.zeros(1, 1, frames, dtype=torch.long)).shape == (1, frames, 32, 1)


@torch.no_grad()
def test_more_frames_than_positions_are_decoded_in_windows(decoder, golden):
    codes = golden["toks"][:1, None].repeat(1, 1, 8)  # 168 frames
    whole, longer = codes[..., :64], codes[..., :65]
    assert torch.equal(decoder.decode(whole).audio_values, decoder.model.decode(whole))
    for item in (longer, codes):
        wave = decoder.decode(item).audio_values
        assert wave.shape == (1, 1, 320 * item.shape[-1])
        assert (wave.unfold(2, 320, 320).std(-1) > 0).all()
    with pytest.raises(ValueError, match="has positions for 64 frames, found 65"):
        decoder.model.decode(longer)


def test_refuses_input_that_is_too_short(decoder, codec):
    with pytest.raises(ValueError, match="takes 4 frames, found 3: encode at least 1360 samples"):
        decoder.decode(torch.zeros(1, 1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 400 samples, found 399"):
        codec.encode(noise(399))
    assert decoder.num_tokens(torch.tensor([1, 399, 400, 719, 720])).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)])
def test_refuses_a_quantizer_that_is_not_fitted(golden, rows):
    codec = WavLMKM.from_pretrained(GOLDEN)
    codec.model.quantizer.kmeanss[0].centroids[rows] = torch.inf
    for call in (
        lambda: codec.model.quantizer.encode(golden["feats"][..., None]),
        lambda: codec.decode(golden["toks"][:, None]),
        codec.code_vectors,
    ):
        with pytest.raises(ValueError, match="never fitted"):
            call()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("missing", ValueError, r"1 keys missing: \['dequantizer.backbone.encoder.layers.0.norm1.norm.bias'\]"),
        ("missing gain", ValueError, "lack vocoder.conv_pre.conv.weight_g, half of a layer"),
        ("extra", ValueError, r"1 keys left over: \['dequantizer.more'\]"),
        ("shape", ValueError, r"another shape: \['dequantizer.head.bias \(7,\) instead of \(32,\)"),
        ("file", OSError, r"lacks \['vocoder_6.safetensors'\]"),
        ("pickle", ValueError, "cannot be read"),
        ("field", ValueError, r"lacks \['d_ffn'\]"),
        ("option", ValueError, "resblock_type is '2'"),
        ("kernels", ValueError, r"upsample_kernel_sizes is \[16, 16, 4, 4\]"),
        ("layers", ValueError, r"layer_ids must rise"),
        ("wavlm pickle", OSError, "convert them once"),
        ("wavlm missing", ValueError, "have encoder.layers.2.attention.q_proj.weight but not"),
        ("wavlm depth", ValueError, r"has 5 layers, \[\]; expected 6 or more"),
        ("wavlm base", ValueError, "feat_extract_norm is 'group'"),
        ("wavlm width", ValueError, "32 features every 320 samples, but the codec takes 48 every 320"),
    ],
)
def test_refuses_faulty_folders(whole, tmp_path, fault, error, words):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    config, inner = (json.loads((tmp_path / f / "config.json").read_text()) for f in (".", "wavlm-large"))
    dequantizer, vocoder = (load_file(tmp_path / name) for name in FILES[1:])
    weights = load_file(tmp_path / "wavlm-large" / "model.safetensors")
    if fault == "missing":
        del dequantizer["backbone.encoder.layers.0.norm1.norm.bias"]
    elif fault == "missing gain":
        del vocoder["conv_pre.conv.weight_g"]
    elif fault == "extra":
        dequantizer["more"] = torch.zeros(1)
    elif fault == "shape":
        dequantizer["head.bias"] = torch.zeros(7)
    elif fault == "field":
        del config["d_ffn"]
    elif fault == "option":
        config["resblock_type"] = "2"
    elif fault == "kernels":
        config["upsample_kernel_sizes"] = [16, 16, 4, 4]
    elif fault == "layers":
        config["layer_ids"] = [6, 6]
        for name in FILES:
            shutil.copy(tmp_path / name, tmp_path / name.replace("_6", "_6-6"))
    elif fault == "wavlm missing":
        del weights["encoder.layers.2.attention.k_proj.weight"]
    elif fault == "wavlm depth":
        inner["num_hidden_layers"] = 5
    elif fault == "wavlm base":
        inner["feat_extract_norm"] = "group"
    elif fault == "wavlm width":
        config["num_features"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "wavlm-large" / "config.json").write_text(json.dumps(inner))
    save_file(dequantizer, tmp_path / FILES[1])
    save_file(vocoder, tmp_path / FILES[2])
    save_file(weights, tmp_path / "wavlm-large" / "model.safetensors")
    if fault == "file":
        (tmp_path / FILES[2]).unlink()
    elif fault == "pickle":
        torch.save({"a": torch.zeros(1)}, tmp_path / FILES[1])
    elif fault == "wavlm pickle":
        (tmp_path / "wavlm-large" / "model.safetensors").rename(tmp_path / "wavlm-large" / "pytorch_model.bin")
    with pytest.raises(error, match=words) as caught:
        AudioTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
