"""Folders for vLLM open in plain transformers, which writes the same ids as we do."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from focallm.lm import Sampling, SpeechLM, SpeechLMProcessor
from focallm.lm.features import embed
from focallm.tasks.export.vllm import export_vllm

NUM_CODES = 24


@pytest.fixture(scope="module")
def lm(plain_lm) -> SpeechLM:
    return plain_lm("tiny", ("tts", "tts-aligned"))


@pytest.fixture(scope="module")
def folder(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("vllm")
    lm.save_pretrained(path / "lm")
    (path / "said.txt").write_text(export_vllm(str(path / "lm"), path / "out"))
    return path


def greedy_ids(folder, **inputs) -> list[int]:
    """Ids that plain transformers writes with the generation config of a folder, without sampling."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    lengths = {"min_new_tokens": NUM_CODES, "max_new_tokens": NUM_CODES}
    config = GenerationConfig.from_pretrained(folder, do_sample=False, temperature=None, **lengths)
    config.update(top_k=None, top_p=None)
    ids = model.generate(**inputs, generation_config=config)[0]
    return ids[-NUM_CODES:].tolist()


def test_plain_transformers_writes_the_same_ids(folder, lm):
    template = lm.info.template("tts")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    ids = tokenizer("<|voice|>ann<|text|>hello there<|speech|>", add_special_tokens=False)["input_ids"]
    prompt = template.prompt(lm.vocabulary, (NUM_CODES, NUM_CODES), text="hello there", speaker="ann")
    assert ids == prompt.ids
    expected = lm.vocabulary.audio_ids(lm.generate(prompt, sampling=Sampling(temperature=0)).codes)
    found = greedy_ids(folder / "out", input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)))
    assert found == expected
    assert tokenizer.decode(found[:1], skip_special_tokens=True) == f"<|audio_{found[0] - lm.vocabulary.audio_offset}|>"


def test_the_folder_has_no_code_of_ours_but_the_client(folder, lm):
    config = AutoConfig.from_pretrained(folder / "out")
    assert config.architectures == ["LlamaForCausalLM"]
    assert not hasattr(config, "auto_map")
    assert [path.name for path in (folder / "out").glob("*.py")] == ["client.py"]
    allowed = json.loads((folder / "out" / "allowed_token_ids.json").read_text())
    assert set(allowed) == {*lm.vocabulary.audio_range, lm.vocabulary.control("end")}
    for path in (folder / "out").glob("*.*"):
        assert str(folder).encode() not in path.read_bytes(), path


def test_the_command_says_how_to_serve_and_what_is_lost(folder):
    said = (folder / "said.txt").read_text()
    assert f"vllm serve {folder / 'out'} " in said
    assert "Not possible there: tts-aligned, which need the controller" in said
    card = (folder / "out" / "README.md").read_text()
    assert "vllm serve FOLDER" in card
    assert "it was not run with vLLM itself" in card


def test_the_client_asks_for_codes_only(folder, lm, monkeypatch):
    """The client speaks to a stand-in for the server, which records the request."""
    requests = []

    class OpenAI:
        def __init__(self, base_url, api_key):
            self.completions = self

        def create(self, **request):
            requests.append(request)
            return SimpleNamespace(choices=[SimpleNamespace(text="<|audio_5|><|audio_17|>")])

    monkeypatch.setitem(sys.modules, "openai", SimpleNamespace(OpenAI=OpenAI))
    path = folder / "out" / "client.py"
    names = {"__name__": "client", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    processor = SpeechLMProcessor.from_pretrained(folder / "lm")
    assert names["speak"](processor, "hi", "http://here/v1", max_tokens=9) == [5, 17]
    (request,) = requests
    assert request["prompt"] == processor("hi")["input_ids"][0]
    assert request["max_tokens"] == 9
    assert lm.vocabulary.control("end") in request["extra_body"]["allowed_token_ids"]
    names["speak"](processor, "hi", "http://here/v1")
    assert requests[1]["max_tokens"] == GenerationConfig.from_pretrained(folder / "out").max_new_tokens


def test_a_prefix_of_features_becomes_embeddings(tmp_path, plain_lm):
    size = 16
    lm = plain_lm("tiny", ("se-features",), feature_size=size)
    # Positions that do not restart, as vLLM counts them.
    lm.model.config.restart_ids = []
    lm.save_pretrained(tmp_path / "lm")
    said = export_vllm(str(tmp_path / "lm"), tmp_path / "out")
    assert said.endswith("--enable-prompt-embeds")
    assert "prompt_embeds" in (tmp_path / "out" / "README.md").read_text()
    assert not any(name.startswith("projector") for name in load_file(tmp_path / "out" / "model.safetensors"))
    features = torch.randn(NUM_CODES, size, generator=torch.Generator().manual_seed(1))
    template = lm.info.template("se-features")
    prompt = template.prompt(lm.vocabulary, (NUM_CODES, NUM_CODES), noisy_features=features)
    with torch.no_grad():
        embeddings = embed(lm.model, torch.tensor([prompt.ids]), prompt.features)
    mask = torch.ones(embeddings.shape[:2])
    found = greedy_ids(tmp_path / "out", inputs_embeds=embeddings, attention_mask=mask)
    expected = lm.generate(prompt, sampling=Sampling(temperature=0)).codes
    assert found == lm.vocabulary.audio_ids(expected)


def test_adapters_are_merged(lm, tmp_path, plain_lm):
    base = plain_lm("tiny")
    base.save_pretrained(tmp_path / "base")
    adapted = SpeechLM.from_pretrained(tmp_path / "base").add_lora(rank=2)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapted.save_adapter(tmp_path / "adapter")
    export_vllm(str(tmp_path / "adapter"), tmp_path / "out")
    ids = torch.arange(60, 70)[None]
    with torch.no_grad():
        expected = adapted.merge().model(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        unadapted = base.model(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, unadapted, atol=1e-2)


@pytest.mark.parametrize(("kind", "message"), [("aligned", "controller"), ("features", "positions restart")])
def test_what_vllm_cannot_run_is_refused(tmp_path, kind, message, unexportable_lm):
    unexportable_lm(kind).save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=message):
        export_vllm(str(tmp_path / "lm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
