"""Every tensor of the golden fixtures, made with the published model, through public calls."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from focallm.tokenizer import FocalCodecModel
from focallm.tokenizer.focalcodec.checkpoint import convert_state_dict
from focallm.tokenizer.focalcodec.layers import StreamState

FIXTURES = Path(__file__).parent.parent / "fixtures" / "focalcodec"
NAMES = ("tiny_50hz", "tiny_25hz", "tiny_12_5hz", "tiny_50hz_causal")
INPUTS = {"sig", "batch.sig", "batch.length", "vc.matching_set"}
TOLERANCES = {"toks": 0, "codes": 0, "curr_pos": 0, "feats": 5e-5, "lats": 2e-5, "rec_sig": 2e-5, "qfeats": 3e-4}
# Contexts of convolutions with kernel 1: the reference stores them but does not use them; we have none.
DUMMIES = {f"state.{name}" for i in range(3) for name in (f"compressor.{i}.0", f"decompressor.{i}.3")}


def _cases() -> list[tuple[str, str]]:
    cases = []
    for name in NAMES:
        with safe_open(FIXTURES / name / "tensors.safetensors", "pt") as file:
            cases += [(name, key) for key in sorted(file.keys()) if key not in INPUTS | DUMMIES]
    return cases


@pytest.mark.parametrize(("name", "key"), _cases())
def test_every_tensor_of_the_fixture(name: str, key: str) -> None:
    expected, found = _tensors(name)[key], _outputs(name)[key]
    if key.startswith("batch."):  # the reference lets shorter items see their padding (ours never do)
        expected, found = expected[:1], found[:1]
    if ".kv_caches." in key:  # entries beyond the position are stale
        expected = expected[:, : found.shape[1]]
    tolerance = TOLERANCES.get(key.split(".")[-1], 1e-4)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5 if key.startswith("stage.") else 0)


def test_the_legacy_layout_holds_the_same_model() -> None:
    legacy = load_file(FIXTURES / "tiny_25hz" / "model_legacy.safetensors")
    expected = load_file(FIXTURES / "tiny_25hz" / "model.safetensors")
    converted = convert_state_dict(legacy)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], expected[key]) for key in expected)


def test_voice_conversion_with_one_matching_set_per_item(codec) -> None:
    model, t = codec("tiny_50hz"), _tensors("tiny_50hz")
    sets = [t["vc.matching_set"], t["vc.matching_set"][:10]]
    both = model.decode(t["toks"].expand(2, -1), matching_set=sets).audio_values
    torch.testing.assert_close(both[:1, 0], t["vc.rec_sig"], atol=2e-5, rtol=0)
    torch.testing.assert_close(both[1:], model.decode(t["toks"], matching_set=sets[1]).audio_values, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "row", json.loads((FIXTURES / "lengths.json").read_text()), ids=lambda row: str(row["samples"])
)
def test_lengths(codec, row: dict[str, int]) -> None:
    samples = row["samples"]
    for name, rate in (("tiny_50hz", "50hz"), ("tiny_25hz", "25hz"), ("tiny_12_5hz", "12_5hz")):
        model = codec(name)
        assert int(model.encoder.num_frames(torch.tensor(samples))) == row["frames"]
        assert int(model.num_tokens(samples)) == row[f"tokens_{rate}"]
        if samples <= 20000:
            tokens = torch.zeros(1, row[f"tokens_{rate}"], dtype=torch.long)
            assert model.decode(tokens).audio_values.shape[-1] == row[f"rec_{rate}"]
            assert model.decode(tokens, num_samples=samples).audio_values.shape[-1] == samples
    causal = codec("tiny_50hz_causal")
    assert int(causal.num_tokens(samples)) == row["causal_frames"]
    if samples <= 20000:
        tokens = torch.zeros(1, row["causal_frames"], dtype=torch.long)
        assert causal.decode(tokens).audio_values.shape[-1] == row["causal_rec_24k"]
        assert causal.decode(tokens, num_samples=samples).audio_values.shape[-1] == row["causal_forward_rec_24k"]


@functools.cache
def _tensors(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / name / "tensors.safetensors")


@functools.cache
def _outputs(name: str) -> dict[str, Tensor]:
    """The same tensors as in the fixture, from our model."""
    model, t = FocalCodecModel.from_pretrained(FIXTURES / name), _tensors(name)
    found = _stages(model, t)
    found |= {
        "feats": model.extract_features(t["sig"]),
        "lats": model.encode(t["sig"]).latents,
        "toks": model.encode(t["sig"]).audio_codes[:, 0],
        "codes": model.sig_to_codes(t["sig"]),
        "qfeats": model.codes_to_qfeats(t["codes"]),
        "rec_sig": model.decode(t["toks"]).audio_values[:, 0],
        "rec_sig_forward": model(t["sig"]).audio_values[:, 0],
    }
    if "batch.sig" in t:
        found["batch.feats"] = model.sig_to_feats(t["batch.sig"], t["batch.length"])
        found["batch.toks"] = model.sig_to_toks(t["batch.sig"], t["batch.length"])
    if "vc.matching_set" in t:
        found["vc.knn_topk4"] = model.knn(t["qfeats"], t["vc.matching_set"], topk=4)
        found["vc.knn_topk4_splits3"] = found["vc.knn_topk4"]  # the search is always split into pieces
        found["vc.rec_sig"] = model.decode(t["toks"], matching_set=t["vc.matching_set"]).audio_values[:, 0]
    if model.config.causal:
        partial = t["sig"][:, :22323]
        found |= {f"stream.{key}": value for key, value in _streamed(model, t["sig"]).items()}
        found |= {f"partial.stream.{key}": value for key, value in _streamed(model, partial).items()}
        found |= {"partial.feats": model.extract_features(partial), "partial.toks": model.sig_to_toks(partial)}
        found |= _states(model, t)
    return found


def _stages(model: FocalCodecModel, t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of inner modules, by forward hooks."""
    found = {}
    handles = []
    for key in t:
        if key.startswith("stage."):
            path = key.removeprefix("stage.").replace("encoder.layers", "encoder.encoder.layers")
            path = path.replace("encoder.positional", "encoder.encoder.positional")
            if path.startswith("compressor.layers"):
                path += ".focal_block"
            elif path.startswith("decompressor.layers"):
                path += ".upscale"
            hook = functools.partial(lambda key, module, args, output: found.update({key: output.detach()}), key)
            handles.append(model.get_submodule(path).register_forward_hook(hook))
    model.encode(t["sig"])
    model.decode(t["toks"])
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _streamed(model: FocalCodecModel, sig: Tensor) -> dict[str, Tensor]:
    stream, state, parts = model.stream(), StreamState.new(1), []
    for chunk in sig.split(stream.chunk_length, dim=1):
        feats = model.encoder(chunk, None, state)
        lats = model.quantizer.normalize(model.compressor(feats, None, state))
        tokens = stream.encode(chunk)
        parts.append({"feats": feats, "lats": lats, "toks": tokens[:, 0], "rec_sig": stream.decode(tokens)[:, 0]})
    found = {key: torch.cat([part[key] for part in parts], dim=1) for key in parts[0]}
    codes = model.lats_to_codes(found["lats"])
    return found | {"codes": codes, "qfeats": model.codes_to_qfeats(codes)}


def _states(model: FocalCodecModel, t: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a stream after two chunks, by the names of the reference."""
    stream = model.stream()
    for chunk in t["sig"][:, : 2 * stream.chunk_length].split(stream.chunk_length, dim=1):
        stream.decode(stream.encode(chunk))
    encoder, backbone = model.encoder, model.decoder.backbone
    modules = {f"encoder.left_contexts.{i}": block for i, block in enumerate(encoder.feature_extractor.layers)}
    modules["encoder.left_contexts.7"] = encoder.encoder.positional_embedding
    for i in range(3):
        for j, level in enumerate(model.compressor.layers[i].focal_block.modulation.layers):
            modules[f"compressor.{i}.{j + 1}"] = level
        for j, level in enumerate(model.decompressor.layers[i].focal_block.modulation.layers):
            modules[f"decompressor.{i}.{j}"] = level
    modules |= {f"decoder.{i + 1}": layer.dwconv for i, layer in enumerate(backbone.layers)}
    modules["decoder.0"] = backbone.embedding
    contexts = stream.encoding.contexts | stream.decoding.contexts
    assert len(contexts) == len(modules)
    found = {f"state.{key}": contexts[module] for key, module in modules.items()}
    found["state.encoder.curr_pos"] = stream.encoding.position
    for i, layer in enumerate(encoder.encoder.layers):
        key_value = torch.stack(stream.encoding.key_values[layer.attention], dim=-1)
        found[f"state.encoder.kv_caches.{i}"] = key_value.transpose(1, 2)
    return found
