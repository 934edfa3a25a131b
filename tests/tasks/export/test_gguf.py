"""GGUF files hold the model: other readers compute the same logits, and llama.cpp writes the same ids."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from focallm.lm import Sampling, SpeechLM, Vocabulary
from focallm.tasks.export.gguf import SPEECH_KEY, export_gguf, interleave_halves

gguf = pytest.importorskip("gguf")
ROOT = Path(__file__).parents[3]
# Grouped heads of a width that does not follow from the others, where a wrong order of rows shows.
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, plain_lm):
    path = tmp_path_factory.mktemp("gguf")
    plain_lm({**LLAMA, "intermediate_size": 48}).save_pretrained(path / "lm")
    return path


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_reader_finds_the_same_model(folder, dtype):
    text = export_gguf(str(folder / "lm"), folder / f"{dtype}.gguf", dtype)
    assert dtype in text
    lm = SpeechLM.from_pretrained(folder / "lm")
    again = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{dtype}.gguf", dtype=torch.float32)
    ids = torch.arange(60, 90)[None]
    difference = (logits(again.eval(), ids) - logits(lm.model, ids)).abs().max()
    assert difference < 1e-4 if dtype == "float32" else 1e-4 < difference < 0.1


def test_another_architecture_keeps_the_order_of_its_rows(audio_tokenizer, tmp_path, plain_lm):
    vocabulary = Vocabulary.characters(["abc"], audio_tokenizer.codebook_sizes)
    sizes = {**LLAMA, "head_dim": 8, "intermediate_size": 48, "tie_word_embeddings": False}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, vocab_size=vocabulary.padded_size)).eval()
    for parameter in model.parameters():  # also the biases, which are zero at first
        torch.nn.init.normal_(parameter, std=0.2)
    lm = plain_lm("tiny")
    SpeechLM(model, vocabulary, audio_tokenizer, lm.info).save_pretrained(tmp_path / "lm")
    export_gguf(str(tmp_path / "lm"), tmp_path / "a.gguf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32).eval()
    ids = torch.arange(60, 90)[None]
    assert torch.allclose(logits(again, ids), logits(model, ids), atol=1e-4)


def test_every_id_has_a_name_and_the_vocabulary_is_described(folder):
    export_gguf(str(folder / "lm"), folder / "a.gguf")
    vocabulary = SpeechLM.from_pretrained(folder / "lm").vocabulary
    fields = gguf.GGUFReader(folder / "a.gguf").fields
    names = fields["tokenizer.ggml.tokens"].contents()
    assert len(set(names)) == len(names) == vocabulary.padded_size
    assert names[vocabulary.audio_offset + 7] == "<|audio_7|>"
    assert names[vocabulary.control("end")] == "<|end|>"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == vocabulary.control("end")
    assert json.loads(fields[SPEECH_KEY].contents()) == {
        "audio_offset": vocabulary.audio_offset,
        "codebook_sizes": [64],
        "end_id": vocabulary.control("end"),
    }


def test_rows_are_interleaved_within_each_head():
    rows = np.arange(16)[:, None]
    expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert interleave_halves(rows, 2)[:, 0].tolist() == expected
    assert interleave_halves(rows[:, 0], 2).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "message"), [("aligned", "controller"), ("features", "positions restart"), ("gpt2", "only llama, qwen2")]
)
def test_what_llama_cpp_cannot_run_is_refused_before_anything_is_written(tmp_path, kind, message, unexportable_lm):
    unexportable_lm(kind).save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=message):
        export_gguf(str(tmp_path / "lm"), tmp_path / "a.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"lm"}


@pytest.mark.parametrize(
    ("options", "message"), [({"dtype": "int4"}, "float32 or float16"), ({"out": "a.bin"}, "ends in .gguf")]
)
def test_bad_options_are_explained(folder, options, message):
    with pytest.raises(ValueError, match=message):
        export_gguf(str(folder / "lm"), folder / options.get("out", "b.gguf"), options.get("dtype", "float32"))


def test_llama_cpp_writes_the_same_ids(audio_tokenizer, plain_lm, tmp_path, monkeypatch):
    """Runs the client of docs/export.md."""
    llama_cpp = pytest.importorskip("llama_cpp")
    monkeypatch.chdir(tmp_path)
    lm = plain_lm({**LLAMA, "intermediate_size": 48})
    lm.save_pretrained("my_lm")
    export_gguf("my_lm", Path("my_lm.gguf"))
    (client,) = re.findall(
        r"```python title=\"llama_client.py\"\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL
    )
    names = {}
    exec(compile(client, "export.md", "exec"), names)
    template = lm.info.template("tts")
    prompt = template.prompt(lm.vocabulary, (1, 100), text="hello there", speaker="ann")
    assert names["prompt"] == prompt.ids
    expected = lm.generate(prompt, sampling=Sampling(temperature=0)).codes
    assert names["ids"] == lm.vocabulary.audio_ids(expected)
    assert len(names["audio"]) == audio_tokenizer.codec.config.samples_per_token * len(expected)
    llama = llama_cpp.Llama("my_lm.gguf", vocab_only=True, verbose=False)
    assert llama.detokenize([lm.vocabulary.audio_offset + 7]).decode() == "<|audio_7|>"
