"""The folder of a training run: interrupted and continued runs, and checkpoints."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    OPTConfig,
    Qwen3MoeConfig,
)

from focallm.data.batching import PackCollator
from focallm.lm import SpeechLM, Vocabulary
from focallm.lm.info import SpeechLMInfo
from focallm.lm.lora import LoRA
from focallm.lm.templates import Segment, Template
from focallm.lm.training.dataset import ExampleDataset, Source
from focallm.lm.training.recipe import Evaluation, LMRecipe, build_model
from focallm.lm.training.run_folder import last_checkpoint
from focallm.lm.training.trainer import check_isolation, train
from focallm.tokenizer import AudioTokenizer

SPEAK = Template("tts", (Segment("text", "text", "text"), Segment("codes", "speech", "codes", target=True)))
TRANSCRIBE = Template("asr", (Segment("codes", "speech", "codes"), Segment("text", "text", "text", target=True)))
QUICK = {"use_cpu": True, "report_to": [], "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2}
ROWS = [{"text": "abc"[: 1 + i % 3], "codes": [7 * i, i, 3], "num_samples": 6000} for i in range(8)]


@pytest.fixture
def go(tmp_path, codec):
    """Return a function that trains, or continues, a run in one folder and returns the folder."""

    def start(template=SPEAK, rows=ROWS, tokenizer=None, repeat=1, recipe=None, **trainer):
        settings = {**QUICK, "max_steps": 2, **trainer}
        recipe = LMRecipe(
            **{"model": "tiny", "max_length": 40, "evaluate": Evaluation(0), "trainer": settings, **(recipe or {})}
        )
        lm = build_model(recipe, tokenizer or AudioTokenizer(codec("mel")), ["abc"])
        lm.info = dataclasses.replace(lm.info, templates=(template,))
        examples = ExampleDataset([Source(template, rows, repeat)], lm.vocabulary, 40, recipe.packing)
        train(lm, examples, examples, recipe, tmp_path / "run", quiet=True)
        return tmp_path / "run"

    return start


def test_a_run_continues_only_as_the_same_task_on_the_same_data_with_the_same_codec(go, codec):
    go()
    other_texts = [{**row, "codes": [5, *row["codes"][1:]]} for row in ROWS]  # as many examples, as long as before
    for changed in ({"template": TRANSCRIBE}, {"rows": other_texts}, {"repeat": 2}):
        with pytest.raises(ValueError, match=r"holds a run that differs in \['sources'\]"):
            go(**changed)
    retrained = AudioTokenizer(type(codec("mel"))(codec("mel").config))
    with pytest.raises(ValueError, match=r"differs in \['codec'\]"):
        go(tokenizer=retrained)
    with pytest.raises(ValueError, match=r"differs in \['prompt_dropout', 'trainer.learning_rate'\]"):
        go(recipe={"prompt_dropout": 0.1}, learning_rate=1.0)


def test_settings_that_do_not_affect_weights_may_change(go):
    go()
    run = go(logging_steps=1, save_steps=1, eval_steps=3, save_total_limit=2)
    assert last_checkpoint(run).name == "checkpoint-2"


def test_only_a_run_with_a_constant_learning_rate_is_lengthened(go):
    go()
    with pytest.raises(ValueError, match=r"differs in \['trainer.max_steps'\].*set lr_scheduler_type: constant"):
        go(max_steps=4)


def test_a_lengthened_run_ends_where_a_long_one_ends(go, tmp_path):
    go(lr_scheduler_type="constant")
    run = go(lr_scheduler_type="constant", max_steps=6)
    lengthened = torch.load(run / "checkpoint-6" / "optimizer.pt")["state"]
    run.rename(tmp_path / "before")
    whole = torch.load(go(lr_scheduler_type="constant", max_steps=6) / "checkpoint-6" / "optimizer.pt")["state"]
    assert all(torch.equal(state["exp_avg"], whole[i]["exp_avg"]) for i, state in lengthened.items())


def test_a_quiet_run_prints_nothing_also_when_it_continues(go, capfd):
    go(lr_scheduler_type="constant", logging_steps=1)
    go(lr_scheduler_type="constant", logging_steps=1, max_steps=4)
    output, errors = capfd.readouterr()
    assert output == ""
    # The head is the embedding, which a checkpoint holds once.
    assert "missing keys" not in errors


APART = {"recipe": {"packing": False}, "per_device_train_batch_size": 1}  # 8 updates in an epoch


def contents(folder):
    """The bytes of each file, and when it was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("kept", [{"save_steps": 1}, {"save_strategy": "no"}])
def test_a_finished_run_does_nothing(go, kept):
    settings = {**APART, "max_steps": 3, "lr_scheduler_type": "constant", **kept}
    before = contents(go(**settings))
    assert before == contents(go(**settings))


def test_a_run_that_was_killed_between_its_last_update_and_its_model_ends_with_the_same_model(go):
    run = go(**APART, max_steps=3, save_steps=1)
    weights = (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "model")
    go(**APART, max_steps=3, save_steps=1)
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert not (run / "checkpoint-4").exists()


def test_a_finished_run_is_lengthened_and_never_shortened(go):
    constant = {**APART, "lr_scheduler_type": "constant", "save_steps": 3}
    before = contents(go(**constant, max_steps=3))
    with pytest.raises(ValueError, match=r"differs in \['trainer.max_steps'\].*checkpoint-3 has had more updates"):
        go(**constant, max_steps=2)
    assert before == contents(go(**constant, max_steps=3))
    run = go(**constant, max_steps=6)
    assert last_checkpoint(run).name == "checkpoint-6"
    assert before[run / "model" / "model.safetensors"] != contents(run)[run / "model" / "model.safetensors"]


def test_a_finished_run_without_checkpoints_is_not_replaced(go):
    constant = {"lr_scheduler_type": "constant", "save_strategy": "no"}
    go(**constant)
    with pytest.raises(ValueError, match="has no checkpoint at which a longer run could continue"):
        go(**constant, max_steps=4)
    with pytest.raises(ValueError, match=r"differs in \['trainer.learning_rate'\]"):
        go(**constant, learning_rate=1.0)


@pytest.mark.parametrize(
    ("settings", "symptom"),
    [
        ({"max_steps": 1, "save_strategy": "no"}, "embed_tokens.weight is infinite or NaN after update 1"),
        ({"max_steps": 4, "save_steps": 1}, "embed_tokens.weight is infinite or NaN after update 1"),
        ({"max_steps": 9, "save_steps": 9}, "the loss of update 3 is nan"),
    ],
)
def test_a_run_that_diverges_stops_without_a_model(go, tmp_path, settings, symptom):
    with pytest.raises(ValueError, match=rf"{symptom}, so training diverged.*there is no good checkpoint yet"):
        go(**APART, **settings, learning_rate=1e30)
    weights = list((tmp_path / "run").rglob("model.safetensors"))
    assert weights == [tmp_path / "run" / "audio_tokenizer" / "model.safetensors"]


def test_a_run_that_diverges_names_the_last_good_checkpoint(go):
    constant = {**APART, "lr_scheduler_type": "constant", "save_steps": 1, "save_total_limit": 2}
    run = go(**constant, max_steps=3)
    weights = load_file(run / "checkpoint-3" / "model.safetensors")
    weights["model.norm.weight"][0] = torch.inf
    save_file(weights, run / "checkpoint-3" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the loss of update 4 is nan.*last good checkpoint is .*checkpoint-2"):
        go(**constant, max_steps=5)


def test_damaged_weights_are_not_saved(go, tmp_path, codec):
    recipe = LMRecipe(model="tiny")
    lm = build_model(recipe, AudioTokenizer(codec("mel")), ["abc"])
    lm.model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"model.norm.weight is not finite, so the model is not saved"):
        lm.save_pretrained(tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_rows_that_fill_no_batch_are_refused_and_all_rows_are_evaluated(go, tmp_path):
    settings = {"recipe": {"packing": False}, "dataloader_drop_last": True, "per_device_eval_batch_size": 9}
    with pytest.raises(ValueError, match=r"8 rows are less than a batch of 9.*dataloader_drop_last: false"):
        go(**settings, per_device_train_batch_size=9)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    # 8 rows are no whole batch of 9 for the evaluation either.
    go(
        recipe={"packing": False},
        per_device_train_batch_size=8,
        per_device_eval_batch_size=9,
        dataloader_drop_last=True,
    )


def test_a_run_goes_on_after_a_move_and_without_incomplete_checkpoints(go):
    settings = {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    run = go(learning_rate=1.0, **settings)  # the first update is the best one
    weights = run / "model" / "model.safetensors"
    before = weights.read_bytes()
    state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(run / "checkpoint-1")
    # As after a kill in a folder that was elsewhere.
    state["best_model_checkpoint"] = "/elsewhere/run/checkpoint-1"
    (run / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state))
    (run / "finished.json").unlink()
    weights.unlink()
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / ".tmp0").touch()
    go(learning_rate=1.0, **settings)
    assert weights.read_bytes() == before
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


SIZE = {"vocab_size": 8320, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
LEAKING = {
    "opt": OPTConfig(**SIZE, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64),
    "mamba": MambaConfig(vocab_size=8320, hidden_size=16, num_hidden_layers=2, state_size=8),
    "lfm2": Lfm2Config(**SIZE, intermediate_size=32, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
}
KEEPING = {
    "llama": LlamaConfig(**SIZE, intermediate_size=32),
    "gpt2": GPT2Config(vocab_size=8320, n_embd=16, n_layer=2, n_head=2),
    "experts": Qwen3MoeConfig(**SIZE, **EXPERTS, intermediate_size=32),
}


@pytest.fixture
def model_of(codec):
    """Return a speech LM around a new model, packed examples and their collator."""

    def make(config, dtype=torch.float32):
        torch.manual_seed(0)
        vocabulary = Vocabulary.characters(["abc"], 8192)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        lm = SpeechLM(model, vocabulary, AudioTokenizer(codec("mel")), SpeechLMInfo())
        return lm, ExampleDataset([Source(SPEAK, ROWS)], vocabulary, 40), PackCollator(vocabulary.control("pad"))

    return make


@pytest.mark.parametrize("name", LEAKING)
def test_packing_is_refused_for_a_model_whose_examples_would_see_each_other(model_of, name):
    lm, examples, collate = model_of(LEAKING[name])
    with pytest.raises(ValueError, match=r"ForCausalLM lets the examples of a row see each other.*packing: false"):
        check_isolation(lm, examples, collate)
    apart = ExampleDataset([Source(SPEAK, ROWS)], lm.vocabulary, 40, packing=False)
    check_isolation(lm, apart, collate)


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_is_fine_where_they_do_not(model_of, name, dtype):
    lm, examples, collate = model_of(KEEPING[name], dtype)
    check_isolation(lm, examples, collate)
    assert lm.model.training


def test_checkpoints_can_be_loaded(go, tmp_path):
    run = go(max_steps=4, save_total_limit=2)
    whole, early = (SpeechLM.from_pretrained(run / name) for name in ("model", "checkpoint-2"))
    ids = torch.tensor([[1, 2, 3]])
    last = SpeechLM.from_pretrained(run / "checkpoint-4")
    assert torch.equal(last.model(ids).logits, whole.model(ids).logits)
    assert not torch.equal(early.model(ids).logits, whole.model(ids).logits)
    assert early.info.templates == (SPEAK,)
    codes = torch.arange(10)
    assert (early.audio_tokenizer.decode(codes) == whole.audio_tokenizer.decode(codes)).all()
    assert not (run / "checkpoint-2" / "audio_tokenizer").exists()  # one copy for all
    prompt = SPEAK.prompt(early.vocabulary, (1, 3), text="ab")
    assert early.generate(prompt).stop_reason in ("end", "max_length")


def test_checkpoints_of_an_adapter_can_be_loaded(go, tmp_path):
    base = tmp_path / "base"
    go(max_steps=1).joinpath("model").rename(base)
    shutil.rmtree(tmp_path / "run")
    run = go(max_steps=2, recipe={"model": None, "base": str(base), "lora": LoRA(2)}, save_steps=1)
    ids = torch.tensor([[1, 2, 3]])
    checkpoint, whole = (SpeechLM.from_pretrained(run / name) for name in ("checkpoint-2", "model"))
    assert torch.allclose(checkpoint.model(ids).logits, whole.model(ids).logits, atol=1e-4)


def test_a_loss_that_cannot_be_normalized_over_batches_causes_a_warning(go, tmp_path, caplog, monkeypatch):
    go(max_steps=1, gradient_accumulation_steps=2)
    assert "num_items_in_batch" not in caplog.text
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    go(max_steps=1, gradient_accumulation_steps=2)
    assert "LlamaForCausalLM takes no num_items_in_batch" in caplog.text


def test_a_run_checks_isolation_before_its_first_step(go, monkeypatch):
    checks = []
    monkeypatch.setattr("focallm.lm.training.trainer.check_isolation", lambda *args: checks.append(args))
    go()
    assert len(checks) == 1
