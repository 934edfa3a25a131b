"""Promise 5: save -> load -> merge -> load is logit-equal, and what is saved is small and opens elsewhere."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    set_seed,
)

from focallm.lm import SpeechLM, Vocabulary
from focallm.lm.embeddings import new_ids
from focallm.lm.lora import count_trainable
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

CODES, TEXT = 32, 320  # rows that are trained, and rows of the base
SMALL = {"vocab_size": TEXT, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "max_position_embeddings": 64}
QWEN = {**SMALL, **HEADS, "num_key_value_heads": 1}
CONFIGS = {
    "llama, tied": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    "llama, untied": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False),
    "qwen2, tied": Qwen2Config(**QWEN, tie_word_embeddings=True),
    "qwen3, untied": Qwen3Config(**QWEN, head_dim=8, tie_word_embeddings=False),
    "gpt2, tied": GPT2Config(vocab_size=TEXT, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "neox, untied": GPTNeoXConfig(**SMALL, **HEADS),
}


@pytest.fixture(scope="module")
def codec() -> AudioTokenizer:
    torch.manual_seed(0)
    focal = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 5, **focal},
        quantizer={"codebook_size": CODES},
        decompressor={"input_dim": 5, "output_dim": 20, **focal},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
    )
    return AudioTokenizer(FocalCodecModel(config).eval())


def base_folder(folder, config, rows=TEXT):
    """A base with a tokenizer of fewer tokens than rows, as many bases have."""
    set_seed(1)
    config.vocab_size = rows
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Vocabulary.characters(["".join(map(chr, range(0x100, 0x220)))], 1).tokenizer.backend_tokenizer
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<|unknown|>"})
    )
    return folder


def logits(lm, ids, **inputs):
    with torch.no_grad():
        return lm.model.eval()(ids, **inputs).logits


def learn(lm, steps=5, features=None):
    """Train a few steps on a sequence with every new id. Returns the sequence."""
    place = lm.vocabulary.control("feature")
    seen = [*lm.vocabulary.text_ids("hello"), *(i for i in new_ids(lm.vocabulary) if i != place)]
    ids = torch.tensor([[place] * (0 if features is None else len(features)) + seen])
    inputs = {} if features is None else {"features": features}
    optimizer = torch.optim.SGD([p for p in lm.model.parameters() if p.requires_grad], lr=1.0)
    lm.model.train()
    for _ in range(steps):
        lm.model(ids, labels=ids, **inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return ids


@pytest.mark.parametrize("name", CONFIGS)
def test_promise_5_adapter_merge_and_both_reloaded_give_the_same_logits(name, codec, tmp_path):
    base = base_folder(tmp_path / "base", CONFIGS[name])
    lm = SpeechLM.from_base(base, codec).add_lora(rank=4, alpha=8)
    ids = learn(lm)
    trained = logits(lm, ids)
    lm.save_adapter(tmp_path / "adapter")
    again = SpeechLM.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(logits(again, ids), trained, atol=1e-6)
    again.merge().save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(again, ids), trained, atol=1e-4)
    plain = SpeechLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(plain, ids), logits(again, ids))
    # Other users can read every saved file: the modes are those of the umask.
    (tmp_path / "probe").touch()
    for folder in ("adapter", "merged"):
        modes = {path.stat().st_mode for path in (tmp_path / folder).rglob("*") if path.is_file()}
        assert modes == {(tmp_path / "probe").stat().st_mode}
    embeddings, head = plain.model.get_input_embeddings(), plain.model.get_output_embeddings()
    assert (embeddings.weight is head.weight) == (", tied" in name)


@pytest.mark.parametrize("name", ["llama, tied", "llama, untied"])
def test_merging_leaves_the_old_rows_as_they_were(name, codec, tmp_path):
    base = base_folder(tmp_path / "base", CONFIGS[name])
    start = SpeechLM.from_base(base, codec)
    lm = SpeechLM.from_base(base, codec).add_lora(rank=4, alpha=8)
    learn(lm)
    lm.merge().save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    old = AutoModelForCausalLM.from_pretrained(base)
    new = torch.tensor(new_ids(lm.vocabulary))
    text = torch.tensor([i for i in range(len(lm.vocabulary)) if i not in new.tolist()])
    for part in ("get_input_embeddings", "get_output_embeddings"):
        rows, before = getattr(merged, part)().weight, getattr(start.model, part)().weight
        assert torch.equal(rows[text], getattr(old, part)().weight[text])
        assert ((rows - before)[new].abs().amax(dim=1) > 0).float().mean() > 0.9


def test_an_adapter_is_far_smaller_than_the_embedding(codec, tmp_path):
    config = LlamaConfig(**{**SMALL, **HEADS, "hidden_size": 64}, tie_word_embeddings=False)
    base = base_folder(tmp_path / "base", config, rows=20000)
    lm = SpeechLM.from_base(base, codec).add_lora(rank=2)
    lm.save_adapter(tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < 0.02 * 4 * lm.model.get_input_embeddings().weight.numel()
    lm.model.save_pretrained(tmp_path / "checkpoint")  # as the Trainer does
    assert (tmp_path / "checkpoint" / "adapter_model.safetensors").stat().st_size == size


def test_lora_trains_adapters_new_rows_and_nothing_else(codec, tmp_path):
    lm = SpeechLM.from_base(base_folder(tmp_path, CONFIGS["llama, untied"]), codec, feature_size=5)
    rows = 2 * 16 * len(new_ids(lm.vocabulary))
    whole = count_trainable(lm.model, lm.vocabulary)
    assert whole["new rows"] == rows
    assert sum(whole.values()) == sum(p.numel() for p in lm.model.parameters())
    lm.add_lora(rank=4)
    counts = count_trainable(lm.model, lm.vocabulary)
    assert counts["body"] == 0
    assert counts["new rows"] == rows
    assert counts["projector"] == whole["projector"]
    assert counts["adapters"] == sum(p.numel() for n, p in lm.model.named_parameters() if "lora_" in n) > 0
    assert sum(counts.values()) == sum(p.numel() for p in lm.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["qwen2, tied", "llama, untied"])
def test_promise_5_holds_with_features_and_the_projector_is_trained(name, codec, tmp_path):
    base = base_folder(tmp_path / "base", CONFIGS[name])
    set_seed(0)
    lm = SpeechLM.from_base(base, codec, feature_size=5).add_lora(rank=4)
    features = torch.randn(3, 5)
    trained = {k: v.clone() for k, v in lm.model.named_parameters() if v.requires_grad and "projector" in k}
    ids = learn(lm, features=features)
    after = dict(lm.model.named_parameters())
    assert trained
    assert not any(torch.equal(after[k], v) for k, v in trained.items())
    trained = logits(lm, ids, features=features)
    lm.save_adapter(tmp_path / "adapter")
    set_seed(9)  # a fresh projector would differ
    again = SpeechLM.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(logits(again, ids, features=features), trained, atol=1e-6)
    again.merge().save_pretrained(tmp_path / "merged")
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "merged").glob("*.json"))
    plain = SpeechLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(plain, ids, features=features), trained, atol=1e-4)


def test_a_loaded_adapter_can_be_trained_further(codec, tmp_path):
    lm = SpeechLM.from_base(base_folder(tmp_path / "base", CONFIGS["qwen2, tied"]), codec).add_lora(rank=4)
    learn(lm, 2)
    lm.save_adapter(tmp_path / "adapter")
    again = SpeechLM.from_pretrained(tmp_path / "adapter")
    ids = learn(lm, 2)
    learn(again, 2)
    assert torch.allclose(logits(again, ids), logits(lm, ids), atol=1e-5)


def test_a_fresh_model_has_to_be_saved_before_it_gets_an_adapter(codec, tmp_path):
    set_seed(0)
    lm = SpeechLM.from_config("tiny", codec)
    with pytest.raises(ValueError, match="needs its base"):
        SpeechLM.from_config("tiny", codec).add_lora().save_adapter(tmp_path / "adapter")
    lm.save_pretrained(tmp_path / "base")
    lm = SpeechLM.from_pretrained(tmp_path / "base").add_lora(rank=4)
    ids = learn(lm)
    lm.save_adapter(tmp_path / "adapter")
    tmp_path.joinpath("base").rename(tmp_path / "moved")
    with pytest.raises(OSError, match="its base is not at"):
        SpeechLM.from_pretrained(tmp_path / "adapter")
    tmp_path.joinpath("moved").rename(tmp_path / "base")
    again = SpeechLM.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(logits(again, ids), logits(lm, ids), atol=1e-6)


def test_merged_models_load_without_this_package(codec, tmp_path):
    SpeechLM.from_config("tiny", codec).save_pretrained(tmp_path / "fresh")
    folders = {"fresh": SpeechLM.from_pretrained(tmp_path / "fresh")}
    for name in ("llama, tied", "llama, untied"):
        folders[name] = SpeechLM.from_base(base_folder(tmp_path / f"{name} base", CONFIGS[name]), codec)
    expected = {}
    for name, lm in folders.items():
        ids = learn(lm.add_lora(rank=4))
        expected[name] = (ids.tolist(), logits(lm, ids))
        lm.merge().save_pretrained(tmp_path / name)
    (tmp_path / "ids.json").write_text(json.dumps({name: ids for name, (ids, _) in expected.items()}))
    code = (
        "import json, sys, torch; from transformers import AutoModelForCausalLM; torch.set_num_threads(1)\n"
        "for name, ids in json.load(open('ids.json')).items():\n"
        "    logits = AutoModelForCausalLM.from_pretrained(name).eval()(torch.tensor(ids)).logits.detach()\n"
        "    torch.save(logits, name + '.pt')\n"
        "assert not [name for name in sys.modules if name.startswith('focallm')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for name, (_, wanted) in expected.items():
        assert torch.allclose(torch.load(tmp_path / f"{name}.pt"), wanted, atol=1e-4)


def test_impossible_requests_are_errors(codec, tmp_path):
    lm = SpeechLM.from_config("tiny", codec)
    with pytest.raises(ValueError, match="nothing to merge"):
        lm.merge()
    with pytest.raises(ValueError, match="no adapters"):
        lm.save_adapter(tmp_path)
    lm.add_lora(rank=2)
    with pytest.raises(ValueError, match="adapters already"):
        lm.add_lora()
    with pytest.raises(ValueError, match=r"merge\(\) them first"):
        lm.save_pretrained(tmp_path)
    phi = SpeechLM.from_base(base_folder(tmp_path, PhiConfig(**SMALL, **HEADS)), codec)  # its head has a bias
    with pytest.raises(ValueError, match="has a bias"):
        phi.add_lora()
