"""SpeechTokenizer: golden fixtures of the published code, its keys at full size, both layouts, errors."""

import functools
import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.speechtokenizer import (
    SpeechTokenizerCodec,
    SpeechTokenizerConfig,
    SpeechTokenizerModel,
    convert_config,
    convert_state_dict,
)

FIXTURES = Path(__file__).parent.parent / "fixtures" / "codecs"
GOLDEN = FIXTURES / "speechtokenizer"
TOLERANCE = {"atol": 2e-5, "rtol": 0}
CONV = "decoder.model.6.convtr.convtr."


@functools.cache
def load():
    return AudioTokenizer.from_pretrained(GOLDEN), load_file(GOLDEN / "tensors.safetensors")


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tmp_path / "golden"


def rewrite(folder, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def test_golden_tensors():
    tok, t = load()
    model, codes = tok.codec.model, t["codes"].transpose(0, 1)
    torch.testing.assert_close(model.extract_features(t["wav"]), t["feats"], **TOLERANCE)
    assert torch.equal(model.encode(t["wav"]), codes)
    for count, quantized in ((1, "layer0.quantized"), (2, "first2.quantized"), (8, "quantized")):
        assert torch.equal(model.encode(t["wav"], count), codes[:, :count])
        torch.testing.assert_close(model.quantizer.decode(codes[:, :count]), t[quantized], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.decode(codes), t["rec"], **TOLERANCE)
    torch.testing.assert_close(model.decode(codes[:, :2]), t["first2.rec"], **TOLERANCE)
    tables = tok.codec.code_vectors()
    later = sum(F.embedding(codes[:, k], tables[k]) for k in range(1, 8)).mT
    torch.testing.assert_close(model.decoder(later), t["st1.rec"], **TOLERANCE)


@pytest.mark.parametrize("case", ["short1", "short2", "short3"])
@torch.no_grad()
def test_golden_short_inputs(case):
    tok, t = load()
    model, codes = tok.codec.model, t[f"{case}.codes"].transpose(0, 1)
    torch.testing.assert_close(model.extract_features(t[f"{case}.wav"]), t[f"{case}.feats"], **TOLERANCE)
    assert torch.equal(model.encode(t[f"{case}.wav"]), codes)
    torch.testing.assert_close(model.decode(codes), t[f"{case}.rec"], **TOLERANCE)


@torch.no_grad()
def test_golden_stages():
    tok, t = load()
    model = tok.codec.model
    for part, x in (("encoder", t["wav"]), ("decoder", t["quantized"])):
        for index, layer in enumerate(getattr(model, part).model):
            x = layer(x)
            if f"stage.{part}.{index}" in t:
                torch.testing.assert_close(x, t[f"stage.{part}.{index}"], atol=2e-5, rtol=1e-5)


def test_lengths_of_the_reference():
    tok, _ = load()
    table = json.loads((FIXTURES / "lengths.json").read_text())["speechtokenizer"]
    for samples, (frames, decoded) in table.items():
        assert int(tok.codec.num_tokens(int(samples))) == frames
        assert frames * tok.codec.config.samples_per_token == decoded
        assert tok.encode_codes([torch.zeros(int(samples))])[0].shape == (8, frames)


def test_keys_and_shapes_of_the_released_checkpoint():
    recorded = json.loads(gzip.decompress((FIXTURES / "speechtokenizer_keys.json.gz").read_bytes()))
    official = {k: torch.empty(v, device="meta") for k, v in (recorded["keys"] | recorded["unused"]).items()}
    assert len(official) == 166
    tensors = convert_state_dict(official)
    with torch.device("meta"):
        model = SpeechTokenizerModel(SpeechTokenizerConfig())
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in tensors.items()}
    names = {k.replace(".weight_v", ".weight") for k in recorded["keys"] if not k.endswith(".weight_g")}
    assert tensors.keys() == names  # the official ones, apart from folding


def test_the_released_config_gives_the_defaults():
    config = json.loads((GOLDEN / "config.json").read_text()) | {"n_filters": 64, "dimension": 1024}
    config |= {"codebook_size": 1024, "semantic_dimension": 768, "sampling_rate": 16000, "batch_size": 4}
    expected = SpeechTokenizerConfig()
    assert convert_config(config) == {key: getattr(expected, key) for key in convert_config(config)}
    assert expected.sampling_rate / expected.samples_per_token == 50


@pytest.mark.parametrize(("key", "value"), [("activation", "Snake"), ("n_residual_layers", 3), ("n_q", None)])
def test_refuses_an_unknown_variant(folder, key, value):
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    if value is None:
        del config[key], config["semantic_dimension"]
    (folder / "config.json").write_text(json.dumps(config))
    words = "no codec that is known|does not describe" if value is None else f"not known here: .*{key} is {value!r}"
    with pytest.raises(ValueError, match=words):
        AudioTokenizer.from_pretrained(folder)


def test_save_and_load_with_the_two_codebooks_of_the_paper(tmp_path):
    _, t = load()
    tok = AudioTokenizer.from_pretrained(GOLDEN, num_codebooks=2)
    tok.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 16000
    assert isinstance(AutoModel.from_pretrained(tmp_path), SpeechTokenizerModel)
    again = AudioTokenizer.from_pretrained(tmp_path)
    assert (again.num_codebooks, again.vocab_size, again.frame_rate) == (2, 96, 50)
    assert AudioTokenizer.from_pretrained(tmp_path, num_codebooks=8).num_codebooks == 8
    waves = list(t["wav"][:, 0])
    for found, golden in zip(again.encode_codes(waves), t["codes"].transpose(0, 1), strict=True):
        assert torch.equal(found, golden[:2])
    ids, expected = again(waves), tok(waves)
    assert torch.equal(ids["input_ids"], expected["input_ids"])
    decoded = again.batch_decode(ids["input_ids"], num_samples=ids["num_samples"])
    for ours, golden in zip(decoded, t["first2.rec"][:, 0], strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), golden[:6523], **TOLERANCE)
    tables = again.codec.code_vectors()
    assert [tuple(v.shape) for v in tables] == [(48, 24)] * 2
    assert torch.equal(tables[0][t["codes"][0, 0]].T, t["layer0.quantized"][0])


def test_a_mixed_batch_gives_what_single_items_give():
    tok, t = load()
    waves = [t["wav"][0, 0], t["wav"][1, 0, :1], t["wav"][1, 0, :1777]]
    batch = tok(waves)
    decoded = tok.batch_decode(batch["input_ids"], batch["attention_mask"], batch["num_samples"])
    for i, wave in enumerate(waves):
        single = tok(wave)
        assert torch.equal(batch["input_ids"][i][batch["attention_mask"][i].bool()], single["input_ids"][0])
        alone = tok.decode(single["input_ids"][0], num_samples=len(wave))
        assert len(alone) == len(wave)
        assert torch.equal(torch.from_numpy(decoded[i]), torch.from_numpy(alone))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(CONV + "bias"), "missing.*6.convtr.convtr.bias"),
        (lambda t: t.pop(CONV + "weight_v"), "lack .*6.convtr.convtr.weight_v"),
        (lambda t: t.pop("quantizer.vq.layers.7._codebook.embed"), "missing.*layers.7._codebook.embed"),
        (lambda t: t.update({"decoder.more": torch.zeros(2)}), "left over.*decoder.more"),
        (lambda t: t.update({CONV + "bias": torch.zeros(3)}), r"another shape.*6.convtr.convtr.bias \(3,\)"),
        (lambda t: t.update({CONV + "weight_g": torch.zeros(8, 1, 1)}), "6.convtr.convtr.weight_g has the shape"),
    ],
)
def test_refuses_weights_that_do_not_fit(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=words):
        AudioTokenizer.from_pretrained(folder)


def test_pickles_are_never_loaded_and_the_message_tells_how_to_convert(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "SpeechTokenizer.pt")
    with pytest.raises(OSError, match="Pickled weights are never loaded") as caught:
        SpeechTokenizerCodec.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="Pickled weights are never loaded"):
        AudioTokenizer.from_pretrained(folder)
    exec(str(caught.value).split("convert them once: ")[1], {})  # as a user would
    assert AudioTokenizer.from_pretrained(folder).codebook_size == 48
