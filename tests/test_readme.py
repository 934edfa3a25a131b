"""What the README shows is executed: its Python, and its commands on a small corpus."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from focallm.tasks.cli import commands as cli
from focallm.tasks.demo import SAMPLE
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec, tiny_codec):
    """A folder with everything that the README's examples name."""
    folder = tmp_path_factory.mktemp("readme")
    audio, rate = read_audio(SAMPLE)
    write_audio(folder / "a.wav", audio, rate)
    write_audio(folder / "b.flac", audio[: rate // 2], rate)
    AudioTokenizer(codec("tiny_50hz_causal")).save_pretrained(folder / "folder")
    AudioTokenizer(tiny_codec("mimi")).save_pretrained(folder / "mimi")
    for corpus, count in (("speech", 8), ("heldout", 2)):
        (folder / corpus).mkdir()
        rows = []
        for i in range(count):
            write_audio(folder / corpus / f"{i}.wav", audio[: rate // 2 + 1000 * i], rate)
            speaker = ("ann", "bob", "eve")[i % 3]
            rows.append({"id": str(i), "audio": f"{i}.wav", "text": "Hello there, Liam.", "speaker": speaker})
        (folder / corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "noise").mkdir()
    write_audio(folder / "noise" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32), rate)
    AudioTokenizer(codec("mel")).save_pretrained(folder / "runs" / "ablation" / "focal" / "model")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.mark.parametrize("block", [code for kind, code in BLOCKS if kind == "python"], ids=lambda code: code[:40])
def test_python(block, place, monkeypatch):
    monkeypatch.chdir(place)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 6400)).astype(np.float32)) * 0.1
    given = {"waveform": noise, "padding_mask": torch.ones_like(noise, dtype=torch.bool)}
    given["features_of_another_speaker"] = torch.randn(1, 20, 32)
    exec(compile(block, "README.md", "exec"), given)


@pytest.mark.parametrize("script", [code for kind, code in BLOCKS[1:] if kind == "bash"], ids=lambda code: code[:40])
def test_commands(script, place, monkeypatch):
    """All but the two of the installation; with recipes that take seconds, and scorers that need nothing else.

    In this process, as the installed script calls them: a process for each would spend its time on imports.
    """
    monkeypatch.chdir(place)
    lines = [line.split("#")[0].strip() for line in script.replace("\\\n", " ").splitlines()]
    for line in filter(None, lines):
        quick = re.sub(r"configs/(lm/\w+|mini/speech)\.yaml", "configs/lm/smoke.yaml", line)
        quick = quick.replace("configs/codec/mini.yaml", str(ROOT / "tests" / "fixtures" / "codec_chain.yaml"))
        words = shlex.split(quick.replace("--scorers offline", "--scorers mel"))
        assert words[0] == "focallm"
        monkeypatch.setattr(sys, "argv", words)
        cli.main()
        if "--out" in words:
            assert len(read_audio(place / words[words.index("--out") + 1])[0]) > 0


def test_the_first_block_is_the_two_set_up_commands():
    kind, code = BLOCKS[0]
    assert kind == "bash"
    assert re.findall(r"^(.*?)\s+#", code, re.MULTILINE) == [
        "pip install -e . && focallm demo",
        "pip install -e '.[test]' && pytest",
    ]
