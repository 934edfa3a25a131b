"""Folders open in transformers without this package, and with it the copies of the code in them are not run."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecFeatureExtractor, FocalCodecModel
from focallm.tokenizer.remote_code import flat_name, flatten

ROOT = Path(__file__).parents[2]
# Packages that a user of transformers may lack, and our own.
NAMES = ("focallm", "soundfile", "soxr", "peft", "wrapt", "datasets")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({NAMES}))\n"


def run_without_this_package(code: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", **more}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], env=environment, capture_output=True, text=True, cwd=folder
    )


@pytest.fixture(scope="module")
def folder(codec, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "codec"
    AudioTokenizer(codec("tiny_50hz")).save_pretrained(path)
    return path


def test_codecs_open_without_this_package_and_give_the_same_tokens_and_samples(folder, codec, tiny_codec, tmp_path):
    AudioTokenizer(tiny_codec("ts3_codec")).save_pretrained(tmp_path / "ts3")
    wave = np.random.default_rng(0).standard_normal(9000).astype(np.float32) / 10
    np.save(tmp_path / "wave.npy", wave)
    code = f"""
import numpy as np, torch
torch.set_num_threads(1)
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization
model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
assert type(model) is type(AutoModelForAudioTokenization.from_pretrained({str(folder)!r}, trust_remote_code=True))
extractor = AutoFeatureExtractor.from_pretrained({str(folder)!r}, trust_remote_code=True)
assert type(extractor) is type(AutoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True))
inputs = extractor(np.load("wave.npy"), sampling_rate=16000, return_tensors="pt")
codes = model.encode(**inputs).audio_codes
np.savez("out.npz", codes=codes, audio=model.decode(codes).audio_values)
model.save_pretrained("again")
try:
    extractor(np.zeros(800), sampling_rate=8000)
except ImportError as error:
    assert "pip install soxr" in str(error)
assert type(AutoModel.from_pretrained("ts3", trust_remote_code=True)).__name__ == "TS3CodecModel"
"""
    result = run_without_this_package(code, tmp_path)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "out.npz")
    model = codec("tiny_50hz")
    codes = model.encode(torch.from_numpy(wave)[None]).audio_codes
    assert np.array_equal(found["codes"], codes)
    assert np.array_equal(found["audio"], model.decode(codes).audio_values)
    # What is saved without this package still holds its code.
    for path in folder.glob("*.py"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert isinstance(AutoModel.from_pretrained(tmp_path / "again"), FocalCodecModel)


def test_with_this_package_the_copies_are_never_run(folder, tmp_path, monkeypatch):
    poisoned = tmp_path / "codec"
    poisoned.mkdir()
    for path in folder.iterdir():
        content = b"raise SystemExit('a copy was run')\n" if path.suffix == ".py" else path.read_bytes()
        (poisoned / path.name).write_bytes(content)

    def refuse(*args):
        raise AssertionError("transformers asks whether to run code")

    monkeypatch.setattr("builtins.input", refuse)
    for options in ({}, {"trust_remote_code": True}):
        assert isinstance(AutoConfig.from_pretrained(poisoned, **options), FocalCodecConfig)
        for auto in (AutoModel, AutoModelForAudioTokenization):
            assert isinstance(auto.from_pretrained(poisoned, **options), FocalCodecModel)
        for auto in (AutoFeatureExtractor, AutoProcessor):
            assert isinstance(auto.from_pretrained(poisoned, **options), FocalCodecFeatureExtractor)
        assert isinstance(AudioTokenizer.from_pretrained(poisoned, **options).codec, FocalCodecModel)


def test_every_class_of_an_auto_map_is_in_one_module_of_the_folder(folder):
    for name in ("config.json", "preprocessor_config.json"):
        (module,) = {value.split(".")[0] for value in json.loads((folder / name).read_text())["auto_map"].values()}
        assert (folder / f"{module}.py").is_file()


@pytest.mark.parametrize("path", ["tokenizer/focalcodec/modeling.py", "tokenizer/codecs/adapter.py", "lm/features.py"])
def test_flattening_changes_only_where_relative_imports_look(path):
    source, needed = flatten(ROOT / path)
    original = (ROOT / path).read_text()
    assert source.splitlines()[0].startswith(f"# A copy of {path} of focallm (Apache-2.0)")
    targets = []
    pairs = zip(ast.walk(ast.parse(original)), ast.walk(ast.parse(source)), strict=True)
    for before, after in pairs:
        if isinstance(before, ast.ImportFrom) and before.level:
            assert after.level == 1
            assert [alias.name for alias in after.names] == [alias.name for alias in before.names]
            targets.append(after.module)
    assert targets == [flat_name(target) for target in needed]
    changed = set(source.splitlines()[1:]) - set(original.splitlines())
    assert len(changed) == len(targets)
    assert all(line.startswith("from .") for line in changed)


def test_modules_of_a_package_cannot_be_imported_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("focallm.tokenizer.remote_code._ROOT", tmp_path)
    (tmp_path / "a.py").write_text("from . import b\n")
    with pytest.raises(AssertionError, match=r"a\.py, line 1"):
        flatten(tmp_path / "a.py")
