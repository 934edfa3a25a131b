"""Whatever is in the files of others, a reader gives one error that names the file, and runs none of their code."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load, save_file
from transformers import AutoTokenizer

from focallm.data.token_store import TokenStore
from focallm.lm import SpeechLM
from focallm.lm.training.recipe import LMRecipe
from focallm.lm.vocabulary import Vocabulary
from focallm.tasks.cli import commands
from focallm.tasks.inference.token_files import decode_file
from focallm.tokenizer import AudioTokenizer, hub
from focallm.tokenizer.config_checks import check_sizes
from focallm.tokenizer.configs import load_config, read_json
from focallm.tokenizer.training.config import read_stages

ROOT = Path(__file__).parent.parent
VALUES = [10**18, 10**6, -1, 0, 1.5, "x", None, [], {}, True, float("nan"), [10**9], [0], [-3, "a"], 1e308]
NO_JSON = ["", "{", "[]", "null", "[" * 10**5, '{"a":' * 10**5, '{"a": ' + "9" * 5000 + "}", "\x00"]
Reader = tuple[Path, Callable[[], Any]]


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory: pytest.TempPathFactory, tiny_codec: Callable) -> Path:
    """A tiny LM in a folder, with a copy of its codec."""
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    SpeechLM.from_config("tiny", AudioTokenizer(tiny_codec("dac"))).save_pretrained(folder)
    return folder


def _mutations(content: Any, count: int) -> list[str]:
    """Return texts of JSON in which a value was exchanged or is missing."""
    places: list[list[Any]] = []
    pending: list[tuple[list[Any], Any]] = [([], content)]
    while pending:
        path, value = pending.pop()
        children: Any = value.items() if isinstance(value, dict) else enumerate(value[:3])
        for key, child in children:
            places.append([*path, key])
            if isinstance(child, dict | list):
                pending.append(([*path, key], child))
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        *parents, key = draw.choice(places)
        changed = copy.deepcopy(content)
        parent = changed
        for name in parents:
            parent = parent[name]
        if draw.random() < 0.1:
            del parent[key]
        else:
            parent[key] = draw.choice(VALUES)
        texts.append(json.dumps(changed))
    return texts


def _attack(path: Path, read: Callable[[], Any], texts: list[str]) -> None:
    """Check that a reader accepts a text, or refuses it with the name of the file or its folder."""
    original = path.read_bytes()
    try:
        for text in texts:
            path.write_text(text)
            message = None
            try:
                read()
            except (ValueError, OSError) as error:
                message = str(error)
            assert message is None or str(path.parent) in message, text[:300]
            assert message is None or len(message) < 2000
    finally:
        path.write_bytes(original)


def test_configs_of_codecs(any_codec: Any, tmp_path: Path) -> None:
    AudioTokenizer(any_codec).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    texts = _mutations(json.loads(path.read_text()), 6)
    _attack(path, lambda: AudioTokenizer.from_pretrained(tmp_path), [*texts, *NO_JSON[:3]])


@pytest.mark.parametrize(
    "name", ["config.json", "speech_lm.json", "vocabulary.json", "tokenizer_config.json", "processor_config.json"]
)
def test_files_of_language_models(lm_folder: Path, name: str) -> None:
    from focallm.lm.processor import SpeechLMProcessor

    is_processor = name == "processor_config.json"
    path = lm_folder / name
    texts = _mutations(json.loads(path.read_text()), 8)
    reader: Any = SpeechLMProcessor if is_processor else SpeechLM
    _attack(path, lambda: reader.from_pretrained(lm_folder), [*texts, *NO_JSON])


def test_a_damaged_text_tokenizer(lm_folder: Path) -> None:
    path = lm_folder / "tokenizer.json"
    _attack(path, lambda: Vocabulary.load(lm_folder), [*_mutations(json.loads(path.read_text()), 20), *NO_JSON])


def test_the_manifest_of_a_store(tmp_path: Path) -> None:
    codec = {"name": "mini", "weights_sha256": "0", "sampling_rate": 16000, "output_sampling_rate": 16000}
    codec |= {"codebook_size": 8192, "num_codebooks": 1, "vocab_size": 8192, "frame_rate": 50.0, "bits_per_second": 650}
    counts = {"num_utterances": 1, "num_skipped": 0, "num_tokens": 5, "codes_used": 4, "seconds": 0.1}
    rates = {"unigram_entropy_bits": 2.0, "real_time_factor": 1.0}
    manifest = {"codec": codec, **counts, **rates, "shards": [{"file": "shard-00000.parquet", "sha256": "0"}]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    (tmp_path / "shard-00000.parquet").touch()
    TokenStore(tmp_path)
    _attack(path, lambda: TokenStore(tmp_path), [*_mutations(manifest, 200), *NO_JSON])


@pytest.mark.parametrize("name", ["lm/mini_tts.yaml", "codec/mini.yaml"])
def test_recipes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text((ROOT / "configs" / name).read_text())

    def read() -> Any:
        return load_config(LMRecipe, path) if name.startswith("lm") else read_stages(path, tmp_path / "run")

    texts = _mutations(yaml.safe_load(path.read_text()), 40)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(30))
    _attack(path, read, [*texts, bomb, "a: &a [*a]", "[" * 3000, "a: [", "2020-99-99", "!!python/object:os.system x"])


def test_token_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays in (
        {"codes": np.zeros(3, np.int32)},
        {"codes": np.zeros(3, np.int32), "num_samples": 10**15},
        {"codes": np.full(3, 10**9), "num_samples": 900},
        {"codes": np.zeros((2, 2, 2)), "num_samples": 900},
        {"codes": np.array(["a"]), "num_samples": -1},
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"a\.npz"):
            decode_file(path, tmp_path / "a.wav")
    content = path.read_bytes()
    for end in (0, 10, 200, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"a\.npz is damaged"):
            decode_file(path, tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("encoder", "num_layers", 10**9, r"encoder\.num_layers must be at most 256, found 1000000000"),
        ("encoder", "strides", [0] * 7, r"encoder\.strides\[6\] must be at least 1, found 0"),
        ("decoder", "dim", -5, r"decoder\.dim must be at least 1, found -5"),
        ("decoder", "hop_length", 0, r"decoder\.hop_length must be at least 1"),
        ("compressor", "activation", "foo", "activation must be"),
        ("decoder", "layerscale_init", float("nan"), r"decoder\.layerscale_init must be a finite number"),
        ("decoder", "ffn_dim", 10**7, "asks for a model of .* numbers, .* decoder.ffn_dim"),
    ],
)
def test_absurd_fields_are_named_at_once(
    codec: Callable, tmp_path: Path, part: str, field: str, value: Any, message: str
) -> None:
    codec("tiny_25hz").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config[part][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        AudioTokenizer.from_pretrained(tmp_path)


def test_sizes_of_published_models_are_not_absurd() -> None:
    from transformers import CONFIG_MAPPING

    for name in ("llama", "llama4", "qwen2", "qwen3_moe", "gpt2", "gpt_neox", "phi", "smollm3", "nemotron_h"):
        check_sizes(CONFIG_MAPPING[name]().to_dict(), name)


def test_a_weight_that_is_not_finite_is_named(any_codec: Any, tmp_path: Path) -> None:
    AudioTokenizer(any_codec).save_pretrained(tmp_path)
    _spoil_last_weight(tmp_path, float("inf"))
    with pytest.raises(ValueError, match=r"the weight \S+ holds NaN or infinity"):
        AudioTokenizer.from_pretrained(tmp_path)


def test_a_weight_of_a_language_model_that_is_not_finite_is_named(lm_folder: Path) -> None:
    original = (lm_folder / "model.safetensors").read_bytes()
    try:
        _spoil_last_weight(lm_folder, float("nan"))
        with pytest.raises(ValueError, match=r"the weight \S+ holds NaN or infinity"):
            SpeechLM.from_pretrained(lm_folder)
    finally:
        (lm_folder / "model.safetensors").write_bytes(original)


def _spoil_last_weight(folder: Path, value: float) -> None:
    path = folder / "model.safetensors"
    tensors = load(path.read_bytes())
    name = max(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, {"format": "pt"})


# Code of others.


def test_code_that_comes_with_a_model_is_not_run(
    lm_folder: Path, tiny_codec: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (tmp_path / "evil.py").write_text("raise SystemExit('the code ran')")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
    config = {"model_type": "evil", "architectures": ["Model"], "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    codec = AudioTokenizer(tiny_codec("dac"))
    with pytest.raises(ValueError, match=r"needs Python code that comes with it.*--trust-remote-code"):
        SpeechLM.from_base(tmp_path, codec)
    with pytest.raises(ValueError, match="holds no codec that is known here"):
        AudioTokenizer.from_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="the code ran"):
        SpeechLM.from_base(tmp_path, codec, trust_remote_code=True)


def test_auto_tokenizer_says_what_to_call(codec: Callable, tmp_path: Path) -> None:
    AudioTokenizer(codec("tiny_25hz")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"call focallm\.AudioTokenizer\.from_pretrained"):
        AutoTokenizer.from_pretrained(tmp_path)


# Names and the hub.


@pytest.mark.parametrize(("source", "hint"), [("minni", "did you mean mini?"), ("x/y/z", "mini, semanticodec")])
def test_an_unknown_codec_is_answered_without_the_hub(source: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_hub_answers", lambda minute: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError) as caught:
        AudioTokenizer.from_pretrained(source)
    assert hint in str(caught.value)
    with pytest.raises(FileNotFoundError, match="mini, mini-rewriting"):
        SpeechLM.from_pretrained(source)


def test_without_a_hub_only_its_cache_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "_hub_answers", lambda minute: False)
    for reader in (AudioTokenizer, SpeechLM):
        with pytest.raises(OSError, match=r"owner/name is no folder here.*hf download owner/name"):
            reader.from_pretrained("owner/name", cache_dir=str(tmp_path))


# The command line.


def test_an_interruption_ends_in_one_line() -> None:
    program = (
        "import os, signal, sys; from focallm.tasks.cli import commands\n"
        # A process that was started in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "commands.COMMANDS['info'] = stop = lambda model: os.kill(os.getpid(), signal.SIGINT)\n"
        "stop.__doc__ = commands.inference.info.__doc__; stop.__annotations__ = {'model': str}\n"
        "sys.argv = ['focallm', 'info', 'x']; commands.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "focallm: interrupted\n")


def test_the_switch_for_code_of_others_is_an_option_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hub.TRUST_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["focallm", "info", "mini", "--trust-remote-code"])
    monkeypatch.setitem(commands.COMMANDS, "info", _trusts)
    with pytest.raises(SystemExit, match="trusts: True"):
        commands.main()
    monkeypatch.delenv(hub.TRUST_VARIABLE)
    assert os.environ.get(hub.TRUST_VARIABLE) is None


def _trusts(model: str) -> str:
    """Say whether code of others is run.

    Args:
        model: Anything.
    """
    raise ValueError(f"trusts: {hub.trusts_remote_code({})}")


def test_json_with_a_number_that_is_not_finite_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number in ("NaN", "-Infinity", "1e999"):
        path.write_text(f'{{"a": {{"b": [1, {number}]}}}}')
        with pytest.raises(ValueError, match=r"a\.json: a\.b\.1 must be a finite number"):
            read_json(path)
