"""The commands in the headers of the recipes fit each other: their stores have what their tasks train on."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from focallm.lm.training.recipe import ExtraTask, LMRecipe
from focallm.tasks.cli import commands as cli
from focallm.tasks.training.task_data import read_task_data
from focallm.tokenizer import AudioTokenizer, write_audio

CONFIGS = Path(__file__).parents[2] / "configs"
RATE = 16000
# Corpora that provide noisy or mixed input: the folders of one recording, beside or inside the folder of the corpus.
PARTS = {"voicebank": (".", "../clean_trainset_28spk_wav"), "libri2mix": ("mix_clean", "s1", "s2")}


def commands(recipe: Path) -> list[list[str]]:
    """The words of every command of a header, without the launcher."""
    header = [line[1:].strip() for line in recipe.read_text().splitlines() if line.startswith("#")]
    lines = "\n".join(header).replace("\\\n", "").splitlines()
    lines = [line.replace("accelerate launch -m focallm.tasks", "focallm") for line in lines]
    return [shlex.split(line)[1:] for line in lines if line.startswith("focallm ")]


def publish(corpus: Path, layout: str | None, rng: np.random.Generator) -> None:
    """Two recordings of each of two speakers, arranged as a layout has it, or listed in a manifest."""
    if layout in PARTS:
        for name in ("p226_001", "p226_002"):
            for part in PARTS[layout]:
                folder = corpus / part
                folder.mkdir(parents=True, exist_ok=True)
                write_audio(folder / f"{name}.wav", 0.1 * rng.standard_normal(RATE // 2).astype(np.float32), RATE)
        return
    rows = []
    for number in range(4):
        speaker, name = str(number % 2), f"{number % 2}-7-{number}"
        folder = corpus / "a-subset" / speaker / "7" if layout else corpus
        folder.mkdir(parents=True, exist_ok=True)
        wave = 0.1 * rng.standard_normal(RATE // 2).astype(np.float32)
        write_audio(folder / f"{name}.{'flac' if layout == 'librispeech' else 'wav'}", wave, RATE)
        if layout == "librispeech":
            with (folder / f"{speaker}-7.trans.txt").open("a") as file:
                file.write(f"{name} NUMBER {number}\n")
        (folder / f"{name}.normalized.txt").write_text(f"number {number}")
        rows.append({"audio": f"{name}.wav", "text": f"number {number}", "speaker": speaker})
    if layout is None:
        (corpus / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("recipe", sorted((CONFIGS / "lm").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_fit_each_other(recipe, tmp_path, monkeypatch, codec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    AudioTokenizer(codec("mel")).save_pretrained("codec")
    tokenize, *others = commands(recipe)
    rng = np.random.default_rng(0)
    publish(Path(tokenize[1]), tokenize[tokenize.index("--layout") + 1] if "--layout" in tokenize else None, rng)
    if "--noise" in tokenize:
        publish(Path(tokenize[tokenize.index("--noise") + 1]), None, rng)
    tokenize += ["--codec", "codec"]
    for words in (tokenize, *others):
        if words[0] in ("tokenize", "align"):
            monkeypatch.setattr(sys, "argv", ["focallm", *words, "--quiet"])
            cli.main()
    trainings = [words for words in others if words[0] == "train"]
    assert trainings
    codec_copy = AudioTokenizer.from_pretrained("codec")
    for _, task, store, *_ in trainings:
        data = read_task_data(ExtraTask(task), Path(store), LMRecipe(), codec_copy, "codec")
        assert len(data.train_dataset) > 0
        assert not any(data.left_out.values())
