"""Every shipped recipe is read, and its model built on the meta device."""

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.lm.features import SpeechLMForConditionalGeneration
from focallm.lm.lora import count_trainable
from focallm.lm.training.recipe import LMRecipe, build_model, training_arguments
from focallm.tasks.evaluation.probes.probe_config import ProbeConfig
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel, write_audio
from focallm.tokenizer.configs import load_config
from focallm.tokenizer.training.config import read_stages
from focallm.tokenizer.training.teacher import Teacher

CONFIGS = Path(__file__).parent.parent / "configs"
SCRIPTS = CONFIGS.parent / "scripts"
# Sizes of codecs; those that are not named have 16.
MEGABYTES = {"whisper_mini": 45, "denoising": 75, "mini_stream": 12, "whisper_50hz": 130}


@pytest.mark.parametrize("path", sorted((CONFIGS / "codec").rglob("*.yaml")), ids=lambda path: path.stem)
def test_codec_recipe(path):
    for config in read_stages(path, Path("run")).values():
        with torch.device("meta"):
            if config.stage == "teacher":
                Teacher.from_config(config.teacher_model)
                continue
            model = FocalCodecModel(FocalCodecConfig(**config.model))
        if path.stem.startswith("focalcodec"):
            assert model.num_parameters() == 142_126_257  # as released
        elif path.stem in MEGABYTES or not path.stem.startswith("stream"):
            # In half precision: what the package may ship.
            assert model.num_parameters() * 2 <= MEGABYTES.get(path.stem, 16) * 1e6


@pytest.mark.parametrize("path", sorted((CONFIGS / "codec/ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_row_of_the_ablation_changes_one_line(path):
    base, row = (_lines(CONFIGS / "codec/ablation" / name) for name in ("focal.yaml", path.name))
    assert sum(a != b for a, b in zip(base, row, strict=True)) == (path.stem not in ("focal", "vocos"))


def _lines(path):
    """Those of the model that a codec recipe names."""
    return path.read_text().split("\nmodel:\n")[1].split("\nsteps:")[0].splitlines()


@pytest.mark.parametrize("path", sorted((CONFIGS / "lm").glob("*.yaml")), ids=lambda path: path.stem)
def test_lm_recipe(path, tmp_path, codec):
    recipe = load_config(LMRecipe, path)
    if recipe.base:
        recipe = dataclasses.replace(recipe, base=str(_tiny_qwen(tmp_path / "base")))
    training_arguments(recipe, tmp_path / "run")
    texts = ["a recipe is built from what a corpus says", "its words are cut into pieces"] * 50
    feature_size = 20 if "features" in path.read_text() else None
    tokenizer = AudioTokenizer(codec("mel"))  # other tests get the same one: it has weights
    with _on_meta(large="hidden_size" in path.read_text()):
        lm = build_model(recipe, tokenizer, texts, feature_size)
    assert lm.vocabulary.audio_vocab_size == 8192
    trained = count_trainable(lm.model, lm.vocabulary)
    assert (trained["adapters"] > 0) == bool(recipe.lora)
    assert (trained["projector"] > 0) == bool(feature_size)


@contextlib.contextmanager
def _on_meta(large):
    with torch.device("meta") if large else contextlib.nullcontext():
        yield


def _tiny_qwen(folder):
    """A base of the kind that the recipe names; it reads one word."""
    backend = Tokenizer(models.WordLevel({"[unk]": 0, "a": 1}, unk_token="[unk]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[unk]").save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_fsdp_wraps_the_decoder_layers_of_any_base(path):
    config = load_config_from_file(str(path))
    assert str(config.distributed_type).endswith("FSDP")
    options = {key.removeprefix("fsdp_"): value for key, value in config.fsdp_config.items()}
    options["fsdp_version"] = options.pop("version")
    sizes = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1}
    for kind in (LlamaConfig, Qwen2Config):
        plain = AutoModelForCausalLM.from_config(kind(**sizes, num_key_value_heads=1, num_hidden_layers=1))
        layer = type(plain.model.layers[0])
        for model in (plain, SpeechLMForConditionalGeneration.wrap(plain, 3, 1)):
            plugin = FullyShardedDataParallelPlugin(**options)
            plugin.set_auto_wrap_policy(model)
            assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {layer}


@pytest.mark.parametrize("path", sorted((CONFIGS / "mix").glob("*.yaml")), ids=lambda path: path.stem)
def test_mixing_recipe(path):
    assert load_config(MixConfig, path).room_probability == 0  # it works without the extra


def test_each_stage_of_a_mini_model_continues_the_one_before_on_all_of_its_tasks():
    names = ("speech", "speech_long", "speech_further", "rewriting_long", "rewriting_end", "rewriting_further")
    recipes = {name: load_config(LMRecipe, CONFIGS / "mini" / f"{name}.yaml") for name in names}
    tasks = {name: [extra_task.task for extra_task in recipe.extra_tasks] for name, recipe in recipes.items()}
    assert tasks["speech"] == ["zero-shot-aligned", "pronounce"]
    assert tasks["rewriting_long"] == ["ss-features"]
    previous_stages = {
        "speech_further": "speech_long",
        "rewriting_end": "rewriting_long",
        "rewriting_further": "rewriting_end",
    }
    for stage, previous in previous_stages.items():
        assert recipes[stage].base == f"runs/{previous}/model"
        assert set(tasks[previous]) <= set(tasks[stage])
    others = [path for path in (CONFIGS / "mini").glob("*.yaml") if path.stem not in recipes]
    kinds = {path.stem: load_config(MixConfig, path).kind for path in others}
    assert kinds == {
        "enhancement": "noisy",
        "test_enhancement": "noisy",
        "separation": "mixture",
        "test_separation": "mixture",
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "probes").glob("*.yaml")), ids=lambda path: path.stem)
def test_probe_recipe(path):
    config = load_config(ProbeConfig, path)
    assert (config.hidden_size, config.max_grad_norm) == ((128, 1.0) if path.stem.startswith("mini") else (512, 0.01))


def test_more_voices_changes_the_pace_of_a_corpus(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(2):
        write_audio(corpus / f"{i}.flac", np.sin(np.arange(16000) / 10, dtype=np.float32) / 2, 16000)
    rows = [{"id": str(i), "audio": f"{i}.flac", "text": "a", "speaker": "ann", "seconds": 1.0} for i in range(2)]
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sentences.txt").write_text("")
    words = [tmp_path / "sentences.txt", tmp_path / "out", "--again", corpus]
    for _ in range(2):  # the second time nothing is left to be made
        subprocess.run([sys.executable, SCRIPTS / "more_voices.py", *words], check=True)
    slow, fast = read_corpus(tmp_path / "out")
    assert (slow.speaker, fast.speaker, slow.text) == ("ann_slow", "ann_fast", "a")
    (slow_audio, rate), (fast_audio, _) = slow.read(), fast.read()
    assert (rate, round(len(slow_audio) / 1000), round(len(fast_audio) / 100)) == (16000, 18, 145)


def test_evaluation_sets_are_chosen_by_hash(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in (("heldout", 60), ("real", 51), ("noise", 7)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            seconds = 2 if (folder, i) == ("noise", 3) else 0.1
            noise = 0.1 * rng.standard_normal(round(16000 * seconds))
            write_audio(tmp_path / folder / f"{i}.wav", noise.astype(np.float32), 16000)
        rows = [{"id": str(i), "audio": f"{i}.wav", "text": "a"} for i in range(count)]
        (tmp_path / folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [tmp_path / name for name in ("heldout", "real", "noise", "out")]
    subprocess.run([sys.executable, SCRIPTS / "evaluation_sets.py", *words], check=True)
    assert len(read_corpus(tmp_path / "out" / "mixed")) == 100
    sides = {side: {p.name for p in (tmp_path / "out" / "noise" / side).iterdir()} for side in ("train", "test")}
    assert sides["test"] == {"3.wav", "0.wav", "5.wav"}  # the longest; every fifth of the short ones, it among them
    assert sides["train"] == {f"{i}.wav" for i in range(7)} - sides["test"]


def test_every_config_has_a_test():
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.rglob("*.yaml")} == {
        "codec",
        "lm",
        "mini",
        "mix",
        "probes",
        "accelerate",
    }
