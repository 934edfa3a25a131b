"""Commands and pages say so where a model does harm, as measured."""

import sys

import pytest

from focallm.lm.loading import PACKAGED_MODELS
from focallm.tasks.cli import commands as cli
from focallm.tasks.demo import SAMPLE
from focallm.tasks.evaluation.results import table_of_results
from focallm.tasks.inference.measured import harm, word_error_rates
from focallm.tasks.info import describe_model


def record_of(folder, task, input_errors, output_errors):
    """Copy the description of the included weights into a folder, with a record as `focallm release` writes it."""
    folder.mkdir()
    (folder / "speech_lm.json").write_text((PACKAGED_MODELS["mini-rewriting"] / "speech_lm.json").read_text())
    rows = {"se": ("noisy", "enhanced"), "ss": ("mixture", "separated")}[task]
    results = {}
    for name, errors in zip(rows, (input_errors, output_errors), strict=True):
        item = {"id": "a", "seconds": 1.0, "errors": errors, "words": 8, "text": "x", "transcript": "y", "metrics": {}}
        results[name] = [item]
    (folder / "measured.md").write_text(table_of_results(results, 0))
    return folder


@pytest.mark.parametrize("task", ["se", "ss"])
def test_a_result_that_is_worse_than_its_input_is_called_so(tmp_path, task):
    worse = harm(record_of(tmp_path / "worse", task, 2, 5), task)
    assert "rises from 25 % " in worse
    assert "to 62.5 % " in worse
    assert "harder to understand" in worse
    assert harm(record_of(tmp_path / "better", task, 5, 2), task) == ""
    assert harm(record_of(tmp_path / "equal", task, 5, 5), task) == ""


def test_a_model_without_a_record_gives_no_warning(tmp_path):
    folder = record_of(tmp_path / "a", "se", 2, 5)
    assert harm(folder, "ss") == ""  # another task was measured
    (folder / "measured.md").unlink()
    assert word_error_rates(folder) == {}
    assert harm(folder, "se") == ""


@pytest.mark.parametrize(("command", "task"), [("enhance", "se"), ("separate", "ss")])
def test_commands_say_it_beside_the_sound(command, task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["focallm", command, str(SAMPLE), str(tmp_path / "out.wav")])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    sentence = harm("mini", task)
    assert lines[1:] == [sentence] * bool(sentence)
    assert sentence in describe_model("mini-rewriting")
