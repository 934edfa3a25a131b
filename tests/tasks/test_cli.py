import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import focallm
from focallm.data.layouts import LAYOUTS
from focallm.lm import SpeechLM
from focallm.tasks import definitions
from focallm.tasks.cli import commands as cli
from focallm.tasks.cli.parser import parse_arguments, split_docstring
from focallm.tasks.demo import SAMPLE
from focallm.tasks.evaluation.baselines import CODEC_PROGRAMS, PAPER
from focallm.tasks.evaluation.evaluate import TASKS
from focallm.tasks.evaluation.metrics import SCORERS
from focallm.tasks.evaluation.probes.data import LABEL_COLUMNS
from focallm.tasks.inference.measured import harm
from focallm.tasks.info import describe_model
from focallm.tokenizer import read_audio, write_audio


def run(monkeypatch, capsys, *arguments: object) -> str:
    """What a command prints; SystemExit carries what it refuses."""
    monkeypatch.setattr(sys, "argv", ["focallm", *map(str, arguments)])
    cli.main()
    return capsys.readouterr().out


def test_help_names_every_command_and_loads_no_torch():
    code = (
        "import sys; sys.argv = ['focallm', '--help']\n"
        "from focallm.tasks.cli.commands import main\n"
        "main()\n"
        "heavy = ('torch', 'transformers', 'datasets', 'numpy', 'yaml')\n"
        "print('loaded:', [module for module in heavy if module in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "loaded: []" in out
    assert all(command in out for command in cli.COMMANDS)


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "--version") == f"focallm {focallm.__version__}\n"


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_its_arguments(command, monkeypatch, capsys):
    function = cli.COMMANDS[command]
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, capsys, command, "--help")
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    summary, descriptions = split_docstring(function.__doc__)
    assert " ".join(summary.split())[:60] in text
    assert list(descriptions) == list(inspect.signature(function).parameters)
    assert "<class" not in text
    assert "_" not in " ".join(re.findall(r"--[\w-]+", text))


def test_help_lists_all_names():
    """The help texts repeat these lists, because importing them would make `--help` wait for torch."""
    lists = {
        ("train", "task"): definitions.TASKS,
        ("tokenize", "layout"): LAYOUTS,
        ("evaluate", "task"): TASKS,
        ("evaluate", "scorers"): SCORERS,
        ("probe", "task"): LABEL_COLUMNS,
        ("tables", "codecs"): [*PAPER, *CODEC_PROGRAMS],
    }
    for (command, argument), names in lists.items():
        _, descriptions = split_docstring(cli.COMMANDS[command].__doc__)
        words = set(re.findall(r"[\w-]+", descriptions[argument]))
        assert set(names) <= words, f"the help of {command} lacks {set(names) - words} in {argument}"


def example(
    audio: Path,
    data: list[Path] | None = None,
    top_p: float | None = None,
    kind: Literal["a", "b"] = "a",
    columns: dict[str, str] | None = None,
    quiet: bool = False,
) -> str:
    """Do something.

    Args:
        audio: Audio file,
            90 % of them.
        data: Corpora.
        top_p: Probability.
        kind: Kind.
        columns: Names.
        quiet: Hide the bar.

    Returns:
        A line.
    """


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([], {}),
        (["--data", "b", "c", "--quiet"], {"data": [Path("b"), Path("c")], "quiet": True}),
        (["--no-quiet", "--top-p", "0.5"], {"top_p": 0.5}),
        (["--kind=b", "--columns", '{"text": "sentence"}'], {"kind": "b", "columns": {"text": "sentence"}}),
    ],
)
def test_options_follow_the_signature(words, changes):
    defaults = {"audio": Path("x"), "data": None, "top_p": None, "kind": "a", "columns": None, "quiet": False}
    assert parse_arguments(example, "example", ["x", *words]) == {**defaults, **changes}


def test_help_shows_types_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(example, "example", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "AUDIO Audio file, 90 % of them." in text
    assert "--data PATH [PATH ...]" in text
    assert "--kind {a,b} Kind. (default: a)" in text
    assert "--quiet, --no-quiet Hide the bar." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spek", "hi"], "unknown command 'spek'; did you mean speak?"),
        (["xyz"], f"unknown command 'xyz'; expected one of {', '.join(cli.COMMANDS)}"),
        (["speak", "hi", "--top_p", "0.5"], "unknown option '--top_p'; did you mean --top-p?"),
        (["info", "mini", "--xyz"], "unknown option '--xyz'; expected one of --help"),
        (["speak", "Hello", "there"], "unexpected argument 'there'; put a text with spaces in quotes"),
        (["enhance", "a.wav"], "the following arguments are required: OUT"),
        (["tokenize", "a", "--quite"], "unknown option '--quite'; did you mean --quiet?"),
        (["tokenize", "a", "b", "--quiet", "yes"], "--quiet takes no value, found 'yes'"),
        (["tokenize", "a", "b", "--quiet=yes"], "--quiet takes no value, found 'yes'"),
        (["--verison"], "unknown command '--verison'; did you mean --version?"),
        (["encode", "-x"], "unknown option '-x'; expected one of --help"),
        (["speak", "hi", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["tokenize", "a", "b", "--columns", "text"], "expected JSON such as"),
        (["benchmark", "packing"], "argument what: invalid choice: 'packing' (choose from"),
        (["tables", "1", "--format", "pdf"], "invalid choice: 'pdf' (choose from"),
    ],
)
def test_a_misspelled_command_line_is_explained_in_one_line(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, capsys, *words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("focallm: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["speak", "Hi.", "--out", "mising/new/a.wav"],
        ["enhance", "a.wav", "mising/new/a.wav"],
        ["tokenize", "corpus", "mising/store"],
        ["train", "tts", "store", "mising/runs/tts"],
        ["demo", "--out", "mising/page"],
        ["evaluate", "codec", "corpus", "--record", "mising/new/a.jsonl"],
    ],
)
def test_an_output_folder_is_created_only_below_an_existing_one(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, capsys, *words)
    assert exit_.value.code == 2
    assert "there is no folder mising" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_paper_s_tables_are_printed(monkeypatch, capsys):
    output = run(monkeypatch, capsys, "tables", "7", "--format", "markdown")
    assert "**Table 7: training data of the codecs**" in output
    with pytest.raises(SystemExit, match="the paper has the tables 1 to 10, or all of them, found 'x'"):
        run(monkeypatch, capsys, "tables", "x")


def test_encode_and_decode_keep_the_length(monkeypatch, capsys, tmp_path):
    output = run(monkeypatch, capsys, "encode", SAMPLE, tmp_path / "a.npz")
    assert "650 bit/s" in output
    run(monkeypatch, capsys, "decode", tmp_path / "a.npz", tmp_path / "a.wav")
    assert len(read_audio(tmp_path / "a.wav")[0]) == len(read_audio(SAMPLE)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.wav"]


def test_info_describes_the_language_model_and_the_codec(monkeypatch, capsys):
    output = run(monkeypatch, capsys, "info", "mini")
    assert "parameters, tts" in output
    assert "50 frames/s" in output


def test_info_lists_voices_in_columns_without_their_paces(monkeypatch, capsys):
    output = run(monkeypatch, capsys, "info", "mini")
    assert max(map(len, output.splitlines())) < 120
    assert "af_heart " in output
    assert not re.search(r"[a-z]_(slow|fast)", output)
    assert "voices" not in run(monkeypatch, capsys, "info", "mini-rewriting")


def test_dir_lists_public_names_only():
    assert dir(focallm) == sorted(focallm.__all__)
    assert not [name for name in dir(focallm) if name.startswith("_")]


def test_an_empty_text_fails_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(SpeechLM, "from_pretrained", None)
    for words in (["speak", ""], ["speak", " ", "--out", "-"], ["speak", "hi", "--reference-text", "hi"]):
        with pytest.raises(SystemExit, match=r"text is empty|--reference\)"):
            run(monkeypatch, capsys, *words)


def test_speak_writes_audio_and_says_how_it_ended(monkeypatch, capsys, tmp_path):
    output = run(monkeypatch, capsys, "speak", "Hello.", "--out", tmp_path / "a.flac", "--seed", 1)
    audio, rate = read_audio(tmp_path / "a.flac")
    assert f"{len(audio) / rate:.2f} s" in output
    assert "stop reason" in output


def test_demo_writes_everything_it_names(monkeypatch, capsys, tmp_path):
    output = run(monkeypatch, capsys, "demo", "--out", tmp_path, "--quiet")
    counts = {"codec": 2, "speech": 3, "voice": 2, "enhancement": 2, "separation": 3}
    files = {f"{name}_{i + 1}.wav" for name, count in counts.items() for i in range(count)}
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", *files}
    assert all(f"{tmp_path}/{name}_*.wav" in output for name in counts)
    assert np.array_equal(*(read_audio(path)[0] for path in (SAMPLE, tmp_path / "codec_1.wav")))
    lengths = [len(read_audio(tmp_path / f"separation_{i}.wav", 16000)[0]) for i in (1, 2, 3)]
    assert len(set(lengths)) == 1
    page = (tmp_path / "index.html").read_text()
    assert page.count("<audio controls") == page.count("<img ") == sum(counts.values())
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}  # nothing from elsewhere
    assert all(f"<code>focallm {command}" in page for command in ("encode", "speak", "enhance", "separate"))
    assert all(harm("mini", task) in page and harm("mini", task) in output for task in ("se", "ss"))
    assert page.count("Metrics:") == 1
    assert page.count("<p>said:") == sum(counts.values())
    # The gate has no recognizer, and then the page says how to get one.
    assert page.count("<p>heard:") == sum(counts.values()) or "pip install" in page
    (docs,) = re.findall(r'<a href="(.*?)">Documentation', page)
    assert (tmp_path / docs).is_file()


def test_benchmark_prints_the_table_of_its_record(monkeypatch, capsys, tmp_path):
    from focallm.tasks.benchmarks import codec

    monkeypatch.setattr(codec, "CASES", {"2 of 1 to 2 s": [1.0, 2.0]})
    monkeypatch.setattr(codec, "MEMORY_CASES", {"2 s": (1, 2.0)})
    out = tmp_path / "codec.json"
    output = run(monkeypatch, capsys, "benchmark", "codec", "--model", "mini", "--threads", 1, "--out", out)
    for part in ("encode", "decode"):
        assert f"| {part}, 2 of 1 to 2 s |" in output
    assert "| one by one |" in output
    assert "| products of matrices alone |" in output
    assert "| peak memory above the loaded model | MB |" in output
    assert [entry["case"] for entry in json.loads(out.read_text())["memory"]] == ["2 s"]


@pytest.fixture
def bad(tmp_path):
    write_audio(tmp_path / "good.wav", np.zeros(1600, np.float32), 16000)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.wav", "a.npz"], "missing.wav"),
        (["encode", "folder", "a.npz"], "folder"),
        (["encode", "text.wav", "a.npz"], "text.wav"),
        (["encode", "empty.wav", "a.npz"], "empty.wav"),
        (["encode", "good.wav", "a.txt"], "name the file a.npz"),
        (["encode", "good.wav", "a.npz", "--codec", "./nowhere"], "nowhere"),
        (["decode", "text.npz", "a.wav"], "text.npz is damaged or not a token file"),
        (["decode", "missing.npz", "a.wav"], "missing.npz"),
        (["tokenize", "folder", "store"], "no audio"),
        (["train", "tts", "folder", "run"], "is not a token store"),
        (["train", "sing", "folder", "run"], "no task is called 'sing'"),
        (["train-codec", "missing.yaml", "folder", "run"], "missing.yaml"),
        (["speak", " "], "text is empty"),
        (["speak", "Hi.", "--voice", "nobody"], "no voice is called 'nobody'"),
        (["speak", "Hi.", "--out", "a.mp4"], "mp4"),
        (["speak", "Hi.", "--temperature", "-1"], "sampling needs temperature >= 0, found -1.0"),
        (["speak", "Hi.", "--top-p", "2"], "sampling needs 0 < top_p <= 1, found 2.0"),
        (["speak", "Hi.", "--reference-text", "Ha."], "pass that, too, as reference (--reference)"),
        (["benchmark", "lm", "--threads", "0"], "threads must be at least 1, found 0"),
        (["benchmark", "codec", "--threads", "-2"], "threads must be at least 1, found -2"),
        (["tokenize", ".", "store", "--batch-seconds", "0"], "tokenization needs batch_seconds above 0, found 0.0"),
        (["separate", "good.wav", "a.wav", "--num-speakers", "9"], "up to 2 speakers, found num_speakers=9"),
        (["enhance", "good.wav", "a.wav", "--dry", "2"], "from 0 to 1, found 2.0"),
        (["evaluate", "sing", "folder"], "unknown task 'sing': `evaluate` takes one of codec, tts, se, ss"),
        (["info", "./nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(arguments, message, bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    before = sorted(bad.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, capsys, *arguments)
    output = str(exit_.value.code)
    assert output.startswith("focallm: ")
    assert message in output
    assert "\n" not in output
    assert sorted(bad.rglob("*")) == before


def test_info_asks_the_hub_whether_it_is_a_language_model(monkeypatch):
    asked = []
    monkeypatch.setattr("focallm.tokenizer.hub.find_file", lambda source, name, _: asked.append((source, name)) or "it")
    mini = SpeechLM.from_pretrained("mini")
    monkeypatch.setattr(SpeechLM, "from_pretrained", lambda source: mini)
    assert "language model" in describe_model("owner/name")
    assert asked == [("owner/name", "speech_lm.json")]
