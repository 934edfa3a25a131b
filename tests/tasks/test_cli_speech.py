"""The commands that write or read speech, from end to end, on a folder with a small random model of every task."""

import io
import sys

import numpy as np
import pytest

from focallm.tasks.cli import commands as cli
from focallm.tasks.demo import SAMPLE
from focallm.tokenizer import read_audio, write_audio

SAMPLES = 5001


@pytest.fixture(scope="module")
def place(tmp_path_factory, speech_lm):
    """A folder with two recordings and two models."""
    folder = tmp_path_factory.mktemp("speech")
    speech_lm("tts", "zero-shot", "se", "ss", "vc", "asr", "continuation").save_pretrained(folder / "lm")
    speech_lm("se-features").save_pretrained(folder / "features")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_audio(folder / f"{name}.wav", 0.1 * rng.standard_normal(SAMPLES), 16000)
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    """`run("speak", "Hi.")` in the folder -> what is printed, and where `out` stands for a fresh folder."""

    def call(*arguments: str) -> str:
        words = [str(tmp_path / a.removeprefix("out/")) if a.startswith("out/") else a for a in arguments]
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["focallm", *words])
        cli.main()
        return capsys.readouterr().out.replace(str(tmp_path), "out")

    return call


@pytest.mark.parametrize("model", ["lm", "features"])
def test_enhance(run, tmp_path, model):
    output = run("enhance", "a.wav", "out/new/clean.wav", "--model", model)
    assert output.startswith("out/new/clean.wav: 0.31 s, 15 tokens, stop reason constraint, real-time factor ")
    assert len(read_audio(tmp_path / "new" / "clean.wav")[0]) == SAMPLES


def test_separate(run, tmp_path):
    assert run("separate", "a.wav", "out/t.flac", "--model", "lm", "--num-speakers", "3").count("out/t_") == 3
    assert [len(read_audio(tmp_path / f"t_{i}.flac")[0]) for i in (1, 2, 3)] == [SAMPLES] * 3


@pytest.mark.parametrize(("options", "method"), [(["--model", "lm"], "lm"), (["--method", "knn"], "knn"), ([], "knn")])
def test_convert(run, tmp_path, options, method):
    assert run("convert", "a.wav", "b.wav", "out/c.wav", *options).endswith(f"method {method}\n")
    assert len(read_audio(tmp_path / "c.wav")[0]) == SAMPLES


def test_transcribe_prints_the_text_and_nothing_else(run, tmp_path):
    output = run("transcribe", "a.wav", "--model", "lm", "--out", "out/a.txt")
    assert output == (tmp_path / "a.txt").read_text()


def test_continue(run, tmp_path):
    output = run("continue", "a.wav", "out/more.wav", "--model", "lm", "--seconds", "0.2")
    assert "continued from 0.30 s on" in output
    assert len(read_audio(tmp_path / "more.wav")[0]) > SAMPLES - 400


def test_speak_in_the_voice_of_a_recording(run, tmp_path):
    reference = ["--reference", "a.wav", "--reference-text", "ha"]
    assert "voice of the reference" in run("speak", "Hi.", "--out", "out/a.wav", "--model", "lm", *reference)
    assert len(read_audio(tmp_path / "a.wav")[0]) > 0


def test_speak_as_it_comes(run, monkeypatch, capsys):
    out = io.TextIOWrapper(io.BytesIO())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        run("speak", "Hi.", "--out", "-", "--model", "lm")
    samples = np.frombuffer(out.buffer.getvalue(), "<i2")
    assert len(samples) > 0
    assert len(samples) % 320 == 0


def test_a_name_that_is_no_audio_is_refused_before_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr("focallm.lm.SpeechLM.from_pretrained", None)
    with pytest.raises(SystemExit, match="the suffix must be one of"):
        run("speak", "hi", "--out", "x.mp4")


def test_the_package_enhances_and_separates(run, tmp_path):
    samples = len(read_audio(SAMPLE)[0])
    for words in (["enhance", str(SAMPLE), "out/clean.wav"], ["separate", str(SAMPLE), "out/speaker.wav"]):
        assert "stop reason constraint" in run(*words)
    lengths = [len(read_audio(tmp_path / f"{name}.wav", 16000)[0]) for name in ("clean", "speaker_1", "speaker_2")]
    assert lengths == [samples] * 3


def test_the_package_says_what_it_cannot_do(run):
    with pytest.raises(SystemExit, match="was trained for tts-aligned, zero-shot-aligned, pronounce, not for asr"):
        run("transcribe", str(SAMPLE))


def test_the_demo_of_a_damaged_recording_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    monkeypatch.setattr(
        sys, "argv", ["focallm", "demo", "--audio", str(tmp_path / "a.wav"), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit, match=r"a\.wav"):
        cli.main()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
