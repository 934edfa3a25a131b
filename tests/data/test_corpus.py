"""Every shape of corpus gives the same utterances; mistakes are named in one sentence."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict

from focallm.data.corpus import read_corpus, summarize_corpus
from focallm.data.utterance import Utterance

RATE = 16000


def _tone(seconds: float = 0.1, rate: int = RATE) -> np.ndarray:
    return np.sin(np.arange(int(seconds * rate)) * 0.1).astype(np.float32)


def _write(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, _tone(seconds), RATE)
    return path


def _manifest(folder: Path, rows: list[dict], name: str = "manifest.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def test_a_bare_folder_is_searched_and_its_texts_are_found(tmp_path: Path) -> None:
    _write(tmp_path / "b.WAV")
    _write(tmp_path / "deep/er/a.flac")
    _write(tmp_path / ".hidden.wav")
    (tmp_path / "deep/er/a.txt").write_text("Hello\nthere.\n")
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus] == ["b", "deep/er/a"]
    assert [u.text for u in corpus] == [None, "Hello there."]
    wave, rate = corpus[1].read()
    assert rate == RATE
    assert len(wave) == 1600
    assert len(corpus[1].read(8000)[0]) == 800


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    _write(corpus / "b/x.wav")
    _write(tmp_path / "elsewhere/deep/y.wav")
    (corpus / "a_link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (corpus / "again").symlink_to(corpus / "b", target_is_directory=True)
    (corpus / "b/loop").symlink_to(corpus, target_is_directory=True)
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (corpus / "itself").symlink_to(corpus / "itself")
    # Each folder is read once, under its own name if it lies in the corpus.
    assert [u.id for u in read_corpus(corpus)] == ["a_link/deep/y", "b/x"]


def test_odd_file_names_give_ids_that_can_be_stored(tmp_path: Path) -> None:
    names = [b"caf\xe9.wav", b"a\nb.wav", b"-dash.wav", b"two words.wav", b"n" * 251 + b".wav"]
    for name in names:
        _write(tmp_path / "a.wav").rename(tmp_path / os.fsdecode(name))
    corpus = read_corpus(tmp_path)
    assert len({u.id.encode() for u in corpus}) == 5
    assert all(len(u.read()[0]) == 1600 for u in corpus)
    assert all(u.duration() == pytest.approx(0.1) for u in corpus)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_ends_separate_rows(tmp_path: Path, mark: str) -> None:
    text = f"It was late{mark} and we went home."
    (tmp_path / "metadata.csv").write_text(f"a1|{text}|{text}\r\na2|Second.|Second.\r\n", encoding="utf-8", newline="")
    (tmp_path / "t.csv").write_text(f"audio,text\na1.wav,{text}\na2.wav,Second.\n", encoding="utf-8")
    (tmp_path / "t.tsv").write_text(f"audio\ttext\na1.wav\t{text}\na2.wav\tSecond.\n", encoding="utf-8")
    row = json.dumps({"audio": "a1.wav", "text": "TEXT"}).replace("TEXT", text)
    # Control characters must be escaped in JSON.
    row = row if mark > "\x1f" else json.dumps({"audio": "a1.wav", "text": text})
    (tmp_path / "t.jsonl").write_text(f'{row}\n{{"audio": "a2.wav", "text": "Second."}}\n', encoding="utf-8")
    for name in ("metadata.csv", "t.csv", "t.tsv", "t.jsonl"):
        assert [(u.id, u.text) for u in read_corpus(tmp_path / name)] == [("a1", text), ("a2", "Second.")]
    lines = f"1-2-0003 {text}\n1-2-0004 SECOND\n"
    _write(tmp_path / "1/2/1-2-0003.flac")
    (tmp_path / "1/2/1-2.trans.txt").write_text(lines, encoding="utf-8")
    assert [u.text for u in read_corpus(tmp_path, layout="librispeech")] == [text]


def test_the_error_for_a_folder_without_audio_names_the_formats(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").touch()
    with pytest.raises(ValueError, match=r"no audio found .*\.wav, \.flac, \.ogg, \.opus, \.mp3"):
        read_corpus(tmp_path)


def test_a_manifest_beside_the_audio_wins_over_the_folder(tmp_path: Path) -> None:
    _write(tmp_path / "audio/x.wav")
    _write(tmp_path / "audio/unlisted.wav")
    row = {"id": "one", "audio": "audio/x.wav", "text": "Hi.", "speaker": 7, "seconds": 0.1, "mood": "glad"}
    _manifest(tmp_path, [row, {"audio": "audio/x.wav"}])
    first, second = read_corpus(tmp_path)
    assert (first.id, first.text, first.speaker, first.seconds) == ("one", "Hi.", "7", 0.1)
    assert first.extra == {"mood": "glad"}
    assert first.audio == tmp_path / "audio/x.wav"
    assert (second.id, second.text, second.speaker) == ("audio/x", None, None)
    assert read_corpus(tmp_path / "manifest.jsonl") == [first, second]


def test_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('audio,text\nx.wav,"one, two"\ny.wav,\n')
    (tmp_path / "a.tsv").write_text('audio\ttext\nx.wav\t"Well, said he\n')
    assert [(u.id, u.text) for u in read_corpus(tmp_path / "a.csv")] == [("x", "one, two"), ("y", None)]
    assert [(u.id, u.text) for u in read_corpus(tmp_path / "a.tsv")] == [("x", '"Well, said he')]


def test_ljspeech_metadata(tmp_path: Path) -> None:
    _write(tmp_path / "wavs/LJ001-0001.wav")
    (tmp_path / "metadata.csv").write_text('LJ001-0001|In 1847, "so"|In eighteen..., "so"\nLJ001-0002|Only this|\n')
    corpus = read_corpus(tmp_path)
    assert [u.text for u in corpus] == ['In eighteen..., "so"', "Only this"]
    assert len(corpus[0].read()[0]) == 1600


def test_libritts_and_vctk_folders(tmp_path: Path) -> None:
    _write(tmp_path / "libri/dev-clean/84/121123/84_121123_000007_000001.wav")
    (tmp_path / "libri/dev-clean/84/121123/84_121123_000007_000001.normalized.txt").write_text("Yes.")
    (utterance,) = read_corpus(tmp_path / "libri", layout="libritts")
    assert (utterance.id, utterance.speaker, utterance.text) == ("84_121123_000007_000001", "84", "Yes.")
    _write(tmp_path / "vctk/wav48_silence_trimmed/p225/p225_001_mic1.flac")
    _write(tmp_path / "vctk/wav48_silence_trimmed/p225/p225_001_mic2.flac")
    (tmp_path / "vctk/txt/p225").mkdir(parents=True)
    (tmp_path / "vctk/txt/p225/p225_001.txt").write_text("Please call Stella.\n")
    (utterance,) = read_corpus(tmp_path / "vctk", layout="vctk")
    assert (utterance.id, utterance.speaker, utterance.text) == ("p225_001", "p225", "Please call Stella.")
    with pytest.raises(ValueError, match=r"layout must be one of .*librispeech, libritts, .*vctk.*, found 'lj'"):
        read_corpus(tmp_path / "vctk", layout="lj")


@pytest.mark.parametrize("shape", ["path", "bytes", "array", "audio feature"])
def test_a_dataset_in_every_shape(tmp_path: Path, shape: str) -> None:
    path = _write(tmp_path / "x.wav")
    buffer = io.BytesIO(path.read_bytes())
    cell = {
        "path": str(path),
        "bytes": {"bytes": buffer.getvalue(), "path": "gone.wav"},
        "array": {"array": _tone().tolist(), "sampling_rate": RATE},
        "audio feature": {"bytes": None, "path": str(path)},
    }[shape]
    dataset = Dataset.from_dict({"audio": [cell], "sentence": ["Hi."], "speaker": [3], "tags": [["a"]], "page": [5]})
    if shape == "audio feature":
        dataset = dataset.cast_column("audio", Audio(decode=False)).cast_column("audio", Audio())
    (utterance,) = read_corpus(dataset, columns={"text": "sentence"})
    assert (utterance.id, utterance.text, utterance.speaker) == ("000000", "Hi.", "3")
    assert utterance.extra == {"page": 5}
    assert utterance.duration() == pytest.approx(0.1)
    wave, rate = utterance.read(RATE)
    assert rate == RATE
    np.testing.assert_allclose(wave, _tone(), atol=1e-4)


def test_a_dataset_saved_to_disk_or_as_parquet_is_a_folder_or_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    cell = {"bytes": _write(tmp_path / "x.wav").read_bytes(), "path": "x.wav"}
    dataset = Dataset.from_dict({"audio": [cell, cell], "sentence": ["Hi.", "Ho."], "page": [5, 6]})
    dataset = dataset.cast_column("audio", Audio())
    DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for shard in range(2):
        dataset.shard(2, shard).to_parquet(tmp_path / "parquet" / f"train-0000{shard}-of-00002.parquet")
    dataset.to_parquet(tmp_path / "all.parquet")
    for source in ("saved/train", "parquet", "all.parquet"):
        corpus = read_corpus(tmp_path / source, columns={"text": "sentence"})
        assert [(u.id, u.text, u.extra["page"]) for u in corpus] == [("000000", "Hi.", 5), ("000001", "Ho.", 6)]
        assert [len(u.read(8000)[0]) for u in corpus] == [800, 800]
    with pytest.raises(ValueError, match=r"saved is a DatasetDict: name one of its splits, .*saved/train"):
        read_corpus(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="parquet holds the splits test, train: name a file"):
        read_corpus(tmp_path / "parquet")


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    dataset = Dataset.from_dict({"file": ["x.wav"]})
    with pytest.raises(ValueError, match=r"no column audio; it has file.*columns="):
        read_corpus(dataset)
    with pytest.raises(ValueError, match=r"one split of a DatasetDict.*found DatasetDict"):
        read_corpus(DatasetDict({"train": dataset}))
    with pytest.raises(FileNotFoundError, match="no corpus at"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file: a corpus is a folder"):
        read_corpus(_write(tmp_path / "x.wav"))
    with pytest.raises(ValueError, match=r"keys \['words'\]"):
        read_corpus(dataset, columns={"words": "file"})
    with pytest.raises(ValueError, match="nothing to rename"):
        read_corpus(tmp_path, columns={"text": "sentence"})
    empty = Dataset.from_dict({"audio": [None], "id": ["x"]})
    with pytest.raises(ValueError, match="row 0 of the dataset holds no audio"):
        read_corpus(empty)[0].read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"file": "x.wav", "words": "a"}', "line 1 has no column audio; it has file, words"),
        ("a.jsonl", '{"audio": "x.wav"}\n{"audio": ', "line 2 is not JSON"),
        ("a.jsonl", '["x.wav"]', "line 1 must be an object"),
        ("a.jsonl", '{"audio": 3}', "line 1: audio must be a path, found 3"),
        ("a.jsonl", '{"audio": "x.wav", "seconds": "long"}', "line 1: seconds must be a number, found 'long'"),
        ("a.jsonl", '{"audio": "x.wav", "seconds": NaN}', "line 1: seconds must be a duration, found nan"),
        ("a.jsonl", '{"audio": "x.wav", "seconds": -1}', "line 1: seconds must be a duration, found -1"),
        ("a.jsonl", "", "lists no utterances"),
        ("a.csv", "file,text\nx.wav,Hi.", "line 2 has no column audio; it has file, text"),
        ("a.csv", "audio,text\nx.wav", "line 2 has not as many fields"),
        ("a.csv", "audio,text\n", "lists no utterances"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_corpus(tmp_path / name)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"audio,text\nx.wav,caf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.csv is not UTF-8"):
        read_corpus(tmp_path / "a.csv")


def test_filters(tmp_path: Path) -> None:
    _write(tmp_path / "long.wav", 0.5)
    (tmp_path / "broken.wav").write_text("no audio")
    rows = [
        {"audio": "long.wav", "speaker": "ann"},
        {"audio": "stated.wav", "speaker": "bob", "seconds": 0.1},
        {"audio": "broken.wav", "speaker": "bob"},
    ]
    folder = _manifest(tmp_path, rows)
    assert [u.id for u in read_corpus(folder, speakers="bob")] == ["stated", "broken"]
    kept = read_corpus(folder, min_seconds=0.2)
    assert [(u.id, u.seconds) for u in kept] == [("long", 0.5), ("broken", None)]
    assert [u.id for u in read_corpus(folder, max_seconds=0.2, speakers=["ann", "bob"])] == ["stated", "broken"]
    with pytest.raises(ValueError, match=r"\['eve'\] are not in this corpus, which has 2: \['ann', 'bob'\]"):
        read_corpus(folder, speakers=["eve", "ann"])
    with pytest.raises(ValueError, match=r"none of 1 utterances lasts 2 to inf s: they last 0.50 to 0.50 s"):
        read_corpus(folder, speakers=["ann"], min_seconds=2)


def test_librispeech_as_it_is_published(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean/84/121123"
    for number in range(3):
        _write(chapter / f"84-121123-000{number}.flac")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO ON\n84-121123-0001 OH YES\n")
    corpus = read_corpus(tmp_path, layout="librispeech")
    assert [u.id for u in corpus] == [f"84-121123-000{number}" for number in range(3)]
    assert [u.text for u in corpus] == ["GO ON", "OH YES", None]
    assert {u.speaker for u in corpus} == {"84"}


def test_a_summary_groups_by_any_source_and_license() -> None:
    values = ["CC0", 4, ["CC", 4], {"name": "MIT"}, float("nan"), None]
    rows = [Utterance(str(i), Path("x.wav"), seconds=1.0, extra={"license": v}) for i, v in enumerate(values)]
    found = [group["license"] for group in summarize_corpus(rows)["groups"]]
    assert found == sorted(["CC0", "4", "['CC', 4]", "{'name': 'MIT'}", "nan", "not named"])
