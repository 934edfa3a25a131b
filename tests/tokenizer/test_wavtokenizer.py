"""WavTokenizer: golden fixtures of the published code, its keys at full size, both layouts, errors."""

import functools
import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.wavtokenizer import (
    WavTokenizerCodec,
    WavTokenizerConfig,
    WavTokenizerModel,
    convert_state_dict,
    infer_config,
)

FIXTURES = Path(__file__).parent.parent / "fixtures" / "codecs"
GOLDEN = FIXTURES / "wavtokenizer"
NAMES = ("wavtokenizer", "wavtokenizer_hop600")
TOLERANCE = {"atol": 2e-5, "rtol": 0}
CONV = "feature_extractor.encodec.encoder.model.6.conv.conv."


@functools.cache
def load(name):
    return AudioTokenizer.from_pretrained(FIXTURES / name), load_file(FIXTURES / name / "tensors.safetensors")


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tmp_path / "golden"


def rewrite(folder, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_golden_tensors(name):
    tok, t = load(name)
    model = tok.codec.model
    wave, codes = t["wav"][:, None], t["codes"].transpose(0, 1)
    torch.testing.assert_close(model.extract_features(wave), t["feats"], **TOLERANCE)
    assert torch.equal(model.encode(wave), codes)
    assert torch.equal(model.quantizer.decode(codes), t["quantized"])
    torch.testing.assert_close(model.decode(codes)[:, 0], t["rec"], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["short1", "short2", "short3"])
@torch.no_grad()
def test_golden_short_inputs(name, case):
    tok, t = load(name)
    model = tok.codec.model
    wave, codes = t[f"{case}.wav"][:, None], t[f"{case}.codes"].transpose(0, 1)
    torch.testing.assert_close(model.extract_features(wave), t[f"{case}.feats"], **TOLERANCE)
    assert torch.equal(model.encode(wave), codes)
    if f"{case}.rec" in t:  # not where a group norm has one value, which this width alone brings about
        torch.testing.assert_close(model.decode(codes)[:, 0], t[f"{case}.rec"], **TOLERANCE)


@torch.no_grad()
def test_golden_stages():
    tok, t = load("wavtokenizer")
    model = tok.codec.model
    modules = {"encoder": model.encoder.model, "backbone": model.backbone}
    found = {}

    def keep(name):
        return lambda module, inputs, output: found.__setitem__(name, output)

    stages = [name for name in t if name.startswith("stage.")]
    hooks = []
    for stage in stages:
        part, path = stage.removeprefix("stage.").split(".", 1)
        module = modules[part] if path == "out" else modules[part].get_submodule(path)
        hooks.append(module.register_forward_hook(keep(stage)))
    model.decode(model.encode(t["wav"][:, None]))
    for hook in hooks:
        hook.remove()
    for stage in stages:
        last = any(word in stage for word in ("convnext", "backbone.norm", "backbone.out"))  # channels last, ours
        output = found[stage].mT if last else found[stage]
        torch.testing.assert_close(output, t[stage], atol=2e-5, rtol=1e-5, msg=lambda m, s=stage: f"{s}: {m}")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_tables_of_the_adaptive_norms(name):
    _, t = load(name)
    model = WavTokenizerCodec.from_pretrained(FIXTURES / name).model
    for key, parameter in model.named_parameters():
        if ".scale." in key or ".shift." in key:
            parameter[0] = parameter[2].clone()  # the third condition where the first is read
    rec = model.decode(t["codes"].transpose(0, 1))[:, 0]
    torch.testing.assert_close(rec, t["rec_bandwidth_id_2"], **TOLERANCE)


def test_lengths_of_the_reference():
    tok, _ = load("wavtokenizer_hop600")
    table = json.loads((FIXTURES / "lengths.json").read_text())["wavtokenizer"]
    for samples, (frames, decoded) in table.items():
        assert int(tok.codec.num_tokens(int(samples))) == frames
        assert frames * tok.codec.config.samples_per_token == decoded
        assert tok.encode_codes([torch.zeros(int(samples))])[0].shape == (1, frames)


def test_keys_and_shapes_of_the_released_checkpoint():
    recorded = json.loads(gzip.decompress((FIXTURES / "wavtokenizer_keys.json.gz").read_bytes()))
    official = {k: torch.empty(v, device="meta") for k, v in (recorded["keys"] | recorded["unused"]).items()}
    tensors = convert_state_dict(official | {"multiperioddisc.x": torch.empty(1, device="meta")})
    expected = WavTokenizerConfig()
    assert infer_config(tensors) == {key: getattr(expected, key) for key in infer_config(tensors)}
    assert expected.sampling_rate / expected.samples_per_token == 40
    with torch.device("meta"):
        model = WavTokenizerModel(expected)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in tensors.items()}
    # Apart from folding and the computed window, the names are the official ones.
    names = {k.replace(".weight_v", ".weight") for k in recorded["keys"] if not k.endswith(".weight_g")}
    assert {k.replace("head.proj.", "head.out.") for k in tensors} == names - {"head.istft.window"}


def test_both_spellings_of_weight_norm(folder):
    def respell(tensors):
        for key in list(tensors):
            for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
                if key.endswith(old):
                    tensors[key.replace(old, f"parametrizations.weight.{new}")] = tensors.pop(key)

    rewrite(folder, respell)
    tok, _ = load("wavtokenizer")
    again = AudioTokenizer.from_pretrained(folder)
    expected = tok.codec.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.codec.model.state_dict().items())


def test_the_official_layout_without_a_config(folder):
    (folder / "config.json").unlink()
    _, t = load("wavtokenizer")
    again = AudioTokenizer.from_pretrained(folder)
    assert isinstance(again.codec, WavTokenizerCodec)
    assert torch.equal(again.encode_codes([t["wav"][0]])[0], t["codes"][:, 0])
    assert again.frame_rate == 200


def test_save_and_load(tmp_path):
    tok, t = load("wavtokenizer")
    tok.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 24000
    assert isinstance(AutoModel.from_pretrained(tmp_path), WavTokenizerModel)
    again = AudioTokenizer.from_pretrained(tmp_path)
    assert (again.num_codebooks, again.vocab_size, again.frame_rate) == (1, 64, 200)
    waves = list(t["wav"])
    ids, expected = again(waves), tok(waves)
    assert torch.equal(ids["input_ids"], expected["input_ids"])
    decoded = again.batch_decode(ids["input_ids"], num_samples=ids["num_samples"])
    assert [len(wave) for wave in decoded] == [3001, 3001]
    for ours, golden in zip(decoded, t["rec"], strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), golden[:3001], **TOLERANCE)
    table = again.codec.code_vectors()
    assert [tuple(v.shape) for v in table] == [(64, 24)]
    assert torch.equal(table[0][t["codes"][0, 0]].T, t["quantized"][0])


@torch.no_grad()
def test_a_mixed_batch_gives_what_single_items_give():
    tok, t = load("wavtokenizer")
    waves = [t["wav"][0], t["wav"][1, :1], t["wav"][1, :777]]
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
        (lambda t: t.pop(CONV + "bias"), "missing.*6.conv.conv.bias"),
        (lambda t: t.pop(CONV + "weight_g"), "lack .*6.conv.conv.weight_g"),
        (lambda t: [t.pop(CONV + end) for end in ("weight_g", "weight_v")], "lack .*6.conv.conv.weight"),
        (lambda t: t.pop("backbone.convnext.1.gamma"), "left over: .*backbone.convnext.1"),
        (lambda t: t.pop("head.out.weight"), "lack .*head.proj.weight"),
        (lambda t: t.update({"backbone.more": torch.zeros(2)}), "left over.*backbone.more"),
        (lambda t: t.update({CONV + "bias": torch.zeros(3)}), r"another shape.*6.conv.conv.bias \(3,\)"),
        (lambda t: t.update({CONV + "weight_g": torch.zeros(3, 1, 1)}), r"6.conv.conv.weight_g has the shape"),
        (lambda t: t.update({"head.out.weight": torch.zeros(100, 64)}), "head.proj.weight has 100 rows"),
    ],
)
def test_refuses_weights_that_do_not_fit(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=words):
        AudioTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("key", ["head.proj.bias", CONV + "weight"])
def test_refuses_a_saved_folder_that_lacks_a_key(tmp_path, key):
    load("wavtokenizer")[0].save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match=f"missing.*{key}"):
        AudioTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [True, False])
def test_pickles_are_never_loaded_and_the_message_tells_how_to_convert(folder, config, monkeypatch):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"epoch": 3, "state_dict": tensors}, folder / "wavtokenizer_large_unify_600_24k.ckpt")
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(OSError, match="Pickled weights are never loaded") as caught:
        AudioTokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="Pickled weights are never loaded"):
        WavTokenizerCodec.from_pretrained(folder)
    exec(str(caught.value).split("convert them once: ")[1], {})  # as a user would
    assert AudioTokenizer.from_pretrained(folder).codebook_size == 64


def test_refuses_more_codebooks(folder):
    with pytest.raises(ValueError, match=r"must lie in 1 \.\.\. 1"):
        AudioTokenizer.from_pretrained(folder, num_codebooks=2)


def test_refuses_a_renamed_pickle(folder):
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="renamed pickle"):
        AudioTokenizer.from_pretrained(folder)
