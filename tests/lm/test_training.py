import csv
import logging
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from focallm.data.batching import packing_efficiency
from focallm.lm import LengthWindow, SpeechLM, Vocabulary
from focallm.lm.lora import LoRA
from focallm.lm.templates import Segment, Template
from focallm.lm.training.dataset import ExampleDataset, Source
from focallm.lm.training.loss import PATIENCE, LossMonitor, target_nats
from focallm.lm.training.preview import preview, render
from focallm.lm.training.recipe import Evaluation, LMRecipe, build_model
from focallm.lm.training.samples import SampleWriter
from focallm.lm.training.trainer import train
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
QUICK = {"use_cpu": True, "report_to": [], "learning_rate": 1e-2, "per_device_train_batch_size": 2}
LETTERS = Template("tts", (Segment("text", "text", "text"), Segment("codes", "speech", "codes", target=True)))


@pytest.fixture(scope="module")
def codec() -> AudioTokenizer:
    torch.manual_seed(0)
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 5, **FOCAL},
        quantizer={"codebook_size": 32},
        decompressor={"input_dim": 5, "output_dim": 20, **FOCAL},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
    )
    return AudioTokenizer(FocalCodecModel(config).eval())


def rows(count):
    """Each letter is read as a run of one code, which can be learned from a few examples."""
    return [
        {"text": "abc"[i % 3], "codes": [i % 3] * (3 + i % 4), "num_samples": (3 + i % 4) * 320, "id": str(i)}
        for i in range(count)
    ]


def anything(count, width=6):
    """Rows with all columns of all tasks."""
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        frames = 4 + i % 5
        codes = lambda: rng.integers(0, 32, frames)  # noqa: E731, B023
        made.append(
            {
                "id": str(i),
                "text": "abc"[: 1 + i % 3],
                "speaker": "a",
                "num_samples": frames * 320,
                "codes": codes(),
                "noisy_codes": codes(),
                "mixture_codes": codes(),
                "source_codes": codes(),
                "reference_codes": codes(),
                "reference_text": "ab",
                "sources": [codes(), codes()],
                "phonemes": "ab",
                "units": ["a", "b"],
                "frames": [1, frames - 1],
                "noisy_features": rng.standard_normal((frames, width)).astype(np.float16),
                "mixture_features": rng.standard_normal((frames, width)).astype(np.float16),
            }
        )
    return made


def tiny(codec, **recipe):
    return build_model(LMRecipe(**{"model": "tiny", **recipe}), codec, ["abc"], recipe.pop("feature_size", None))


# Training


def test_training_learns_the_examples_and_writes_samples(codec, tmp_path):
    recipe = LMRecipe("", "tiny", evaluate=Evaluation(samples=2), max_length=40, trainer={**QUICK, "max_steps": 40})
    lm = build_model(recipe, codec, ["abc"])
    train_dataset, eval_dataset = (ExampleDataset([Source(LETTERS, rows(n))], lm.vocabulary, 40) for n in (24, 6))
    lm.info = replace(lm.info, templates=(LETTERS,))
    counted = []

    def word_errors(audio, rate, text):
        counted.append((len(audio) > 0, rate, text))
        return 1, 2

    metrics = train(lm, train_dataset, eval_dataset, recipe, tmp_path, word_errors, quiet=True)
    assert metrics["eval_loss"] < 1.0 < 0.5 * math.log(32)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    assert metrics["eval_code_accuracy"] > 0.5
    assert metrics["eval_bit_accuracy"] >= metrics["eval_code_accuracy"]
    assert metrics["eval_stopped_end"] == 1.0
    assert 0.5 < metrics["eval_duration_ratio"] < 2
    assert metrics["eval_word_error_rate"] == 0.5
    assert counted[-2:] == [(True, 16000, "a"), (True, 16000, "b")]
    written = {path.name for path in (tmp_path / "samples" / "step-40").iterdir()}
    assert written == {"0-tts.wav", "0-tts-original.wav", "1-tts.wav", "1-tts-original.wav"}
    losses = list(csv.DictReader((tmp_path / "losses.csv").open()))
    assert float(losses[0]["loss"]) > 3 > float(losses[-1]["eval_loss"]) == pytest.approx(metrics["eval_loss"])
    assert (tmp_path / "losses.png").stat().st_size > 1000
    again = SpeechLM.from_pretrained(tmp_path / "model")
    prompt = again.info.template("tts").prompt(again.vocabulary, (3, 12), text="b")
    assert set(again.generate(prompt).codes.tolist()) == {1}
    assert again.model.config.use_cache


def test_smoothing_moves_a_share_to_the_codes_that_differ_in_one_bit():
    torch.manual_seed(0)
    logits, targets, codes = torch.randn(3, 12), torch.tensor([1, 4, 9]), range(4, 12)  # a text id, codes 0 and 5
    expected = torch.zeros(3, 12)
    expected[0, 1] = 1
    expected[1, [4, 5, 6, 8]] = torch.tensor([0.7, 0.1, 0.1, 0.1])
    expected[2, [9, 8, 11, 5]] = torch.tensor([0.7, 0.1, 0.1, 0.1])
    assert torch.allclose(
        target_nats(logits, targets, codes, 3, 0.3), F.cross_entropy(logits, expected, reduction="none")
    )
    plain = F.cross_entropy(logits, targets, reduction="none")
    for bits in (3, 0):  # 0: a codec without bits
        assert torch.allclose(target_nats(logits, targets, codes, bits, 0.0), plain)


def test_smoothing_is_refused_where_it_would_be_ignored(codec, tmp_path, monkeypatch):
    lm = tiny(codec)
    plain = lambda self, input_ids=None, **kwargs: None  # noqa: E731
    monkeypatch.setattr(type(lm.model), "forward", plain)
    recipe = LMRecipe("", "tiny", max_length=40, code_smoothing=0.1, trainer=QUICK)
    examples = ExampleDataset([Source(LETTERS, rows(4))], lm.vocabulary, 40)
    with pytest.raises(ValueError, match="code_smoothing needs a base whose forward takes logits_to_keep"):
        train(lm, examples, examples, recipe, tmp_path, quiet=True)


def test_code_noise_exchanges_input_codes_within_a_codebook_and_no_target():
    vocabulary = Vocabulary.characters(["abc"], (8, 8))
    template = Template("continuation", (Segment("codes", "speech", "codes", target=True),))
    codes = [i % 8 + 8 * (i % 2) for i in range(400)]
    clean, noisy = (
        ExampleDataset([Source(template, [{"codes": codes}])], vocabulary, 999, code_noise=share)
        for share in (0.0, 0.25)
    )
    plain, first, second = clean.example(0), noisy.example(0), noisy.example(0, epoch=1)
    assert plain["labels"] == first["labels"] == second["labels"]
    assert first["input_ids"] == noisy.example(0)["input_ids"] != second["input_ids"]
    before, after = (np.array(example["input_ids"])[1:-1] - vocabulary.audio_offset for example in (plain, first))
    assert 0.1 < (before != after).mean() < 0.3  # some are exchanged for the same code
    assert ((before < 8) == (after < 8)).all()


def test_the_validation_loss_is_the_mean_over_target_ids(codec, tmp_path):
    recipe = LMRecipe("", "tiny", evaluate=Evaluation(0), packing=False, trainer={**QUICK, "max_steps": 1})
    recipe = replace(recipe, trainer={**recipe.trainer, "per_device_eval_batch_size": 4})
    lm = build_model(recipe, codec, ["abc"])
    examples = ExampleDataset([Source(LETTERS, rows(7))], lm.vocabulary, 99, packing=False)
    loss = train(lm, examples, examples, recipe, tmp_path, quiet=True)["eval_loss"]
    total = targets = 0
    for row in range(len(examples)):
        (example,) = examples[row]
        labels = torch.tensor([example["labels"]])
        count = int((labels >= 0).sum())
        with torch.no_grad():
            total += lm.model.eval()(torch.tensor([example["input_ids"]]), labels=labels).loss.item() * count
        targets += count
    assert loss == pytest.approx(total / targets, rel=1e-5)


def test_every_task_trains_and_is_sampled_in_one_model(codec, tmp_path):
    recipe = LMRecipe(
        "", "tiny", max_length=60, prompt_dropout=0.3, evaluate=Evaluation(10), trainer={**QUICK, "max_steps": 2}
    )
    lm = build_model(recipe, codec, ["abc"], feature_size=6)
    lm.info = replace(lm.info, longest_unit_s=0.2)
    sources = [Source(template, anything(4)) for template in TEMPLATES.values()]
    train_dataset = ExampleDataset(sources, lm.vocabulary, 60, prompt_dropout=0.3)
    metrics = train(lm, train_dataset, ExampleDataset(sources, lm.vocabulary, 60), recipe, tmp_path, quiet=True)
    assert metrics["eval_stopped_constraint"] > 0  # enhancement, separation and conversion have exact lengths
    names = {path.stem for path in (tmp_path / "samples" / "step-2").iterdir()}
    assert {"2-se", "3-se-features", "4-ss-1", "4-ss-2", "6-vc", "7-asr", "8-continuation"} <= names
    assert not any("text" in name for name in names)


def test_lora_leaves_an_adapter_and_a_merged_model_also_when_it_was_interrupted(codec, tmp_path):
    base = tmp_path / "base"
    Vocabulary.characters(["abc"], 1).tokenizer.save_pretrained(base)
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(base)
    often = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9, "eval_strategy": "no"}
    trainer = {**QUICK, **often, "gradient_checkpointing": True, "per_device_train_batch_size": 1}
    recipe = LMRecipe(str(base), lora=LoRA(2, dropout=0.2), evaluate=Evaluation(1), max_length=30, trainer=trainer)
    final_weights = []
    for _ in range(2):
        for name in ("checkpoint-4", "model"):  # as if it had been stopped at step 3
            shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
        lm = build_model(recipe, codec, [])
        examples = ExampleDataset([Source(LETTERS, rows(12))], lm.vocabulary, 30)
        assert "M adapters" in preview(lm, examples, False, tmp_path / "preview")
        train(lm, examples, examples, recipe, tmp_path / "run", quiet=True)
        final_weights.append(lm.model.state_dict())
    assert all(torch.equal(final_weights[0][key], value) for key, value in final_weights[1].items())
    ids = torch.tensor([[1, 2, 3]])
    merged, adapter = (SpeechLM.from_pretrained(tmp_path / "run" / name) for name in ("model", "adapter"))
    assert torch.allclose(merged.model(ids).logits, adapter.model(ids).logits, atol=1e-4)


def test_samples_end_where_the_positions_do(codec, tmp_path):
    lm = tiny(codec, model={"hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 30}, max_length=30)
    lm.info = replace(lm.info, length_window=LengthWindow(0.1, 200.0))
    examples = ExampleDataset([Source(LETTERS, rows(3))], lm.vocabulary, 30)
    assert SampleWriter(lm, examples, 3, tmp_path)(0)["eval_duration_ratio"] > 1
    assert SampleWriter(lm, examples, 0, tmp_path)(0) == {}


# Examples


def test_an_example_is_whole_or_left_out(codec):
    lm = tiny(codec)
    examples = ExampleDataset([Source(LETTERS, rows(12))], lm.vocabulary, max_length=8)
    assert examples.stats[0].num_too_long == 6  # 4 + 3 ... 6 ids
    assert len(examples.examples) == 6
    for row in range(len(examples)):
        for example in examples[row]:
            assert example["labels"][-1] == lm.vocabulary.control("end")
            assert len(example["input_ids"]) <= 8


def test_prompt_dropout_follows_from_seed_epoch_and_example(codec):
    lm = tiny(codec)

    def emptied(epoch, seed=0):
        examples = ExampleDataset([Source(LETTERS, rows(200))], lm.vocabulary, 99, prompt_dropout=0.25, seed=seed)
        items = [examples[epoch * len(examples) + row] for row in range(len(examples))]
        texts = set(lm.vocabulary.text_ids("abc"))
        return [not texts & set(example["input_ids"]) for row in items for example in row]

    assert emptied(0) == emptied(0)
    assert emptied(0) != emptied(1)
    assert emptied(0) != emptied(0, seed=1)
    assert 0.15 < np.mean(emptied(3)) < 0.35


def test_a_repeated_source_comes_more_often(codec):
    lm = tiny(codec)
    text = Source(TEMPLATES["text"], [{"text": "abc"}], repeat=5)
    examples = ExampleDataset([Source(LETTERS, rows(3)), text], lm.vocabulary, 99)
    assert len(examples.examples) == 8
    everything = [example for row in range(len(examples)) for example in examples[row]]
    assert sum(example["input_ids"][0] == lm.vocabulary.control("text") for example in everything) == 8
    assert packing_efficiency(examples.lengths, examples.rows) == 1.0


def test_the_entropy_is_that_of_the_targets(codec):
    lm = tiny(codec)
    examples = ExampleDataset([Source(LETTERS, [{"text": "a", "codes": [i]} for i in range(4)])], lm.vocabulary, 99)
    expected = 0.5 * math.log(8) + 0.5 * math.log(2)  # four codes once each, four ends
    assert examples.unigram_entropy == pytest.approx(expected)


# The preview, and warnings about losses


def test_the_preview_shows_labels_in_braces_and_the_expected_loss(codec, tmp_path):
    lm = tiny(codec)
    examples = ExampleDataset([Source(LETTERS, rows(3))], lm.vocabulary, 99)
    assert render(lm.vocabulary, examples.example(0)) == "<|text|>a<|speech|>{[3 audio]}{<|end|>}"
    text = preview(lm, examples, True, tmp_path)
    assert "ln 32 = 3.47" in text
    assert (tmp_path / "tts.wav").stat().st_size > 44
    assert "100.0 % of them filled" in text


def test_the_preview_has_a_file_for_each_stream_and_shows_features(codec, tmp_path):
    lm = build_model(LMRecipe(model="tiny"), codec, ["abc"], feature_size=6)
    examples = ExampleDataset([Source(TEMPLATES["ss-features"], anything(3))], lm.vocabulary, 99)
    text = preview(lm, examples, True, tmp_path)
    assert "<|mixture|>[4 features]<|speech|>{[4 audio]}{<|speaker|>}{[4 audio]}{<|end|>}" in text
    assert {path.name for path in tmp_path.iterdir()} == {"ss-features-1.wav", "ss-features-2.wav"}
    assert "M projector" in text


def warnings_of(caplog, *losses, fresh=9.02, unigram=8.3):
    """Return the warnings for (step, epoch, loss)."""
    monitor = LossMonitor(fresh, unigram)
    with caplog.at_level(logging.WARNING):
        for step, epoch, loss in losses:
            state = SimpleNamespace(global_step=step, epoch=epoch, is_world_process_zero=True)
            monitor.on_log(None, state, None, logs={"loss": loss})
    return caplog.text


def test_an_expected_loss_causes_no_warning(caplog):
    assert warnings_of(caplog, (1, 0.01, 9.1), (20, 0.2, 8.4), (PATIENCE, 3.0, 6.5), (900, 50.0, 0.5)) == ""


@pytest.mark.parametrize(
    ("step", "epoch", "loss", "words"),
    [
        (1, 0.01, 11.0, "summed and not averaged"),
        (1, 0.01, 4.0, "is padding a target"),
        (20, 0.5, 1.0, "too good"),
        (PATIENCE, 2.0, 8.31, "learning rate is too low"),
    ],
)
def test_a_strange_loss_is_explained_once(caplog, step, epoch, loss, words):
    text = warnings_of(caplog, (step, epoch, loss), (step, epoch, loss))
    assert text.count(words) == 1


@pytest.mark.parametrize("width", [32, 256, 1024])
def test_the_first_loss_of_a_fresh_model_is_near_ln_v(codec, width):
    lm = tiny(codec, model={"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1})
    rows_, labels = lm.model.config.vocab_size, torch.randint(0, lm.model.config.vocab_size, (4, 64))
    with torch.no_grad():
        loss = lm.model(labels, labels=labels).loss.item()
    assert abs(loss - math.log(rows_)) < 0.5
