"""A token store depends only on the corpus and the codec: not on batches, workers, processes or kills.

Run as a program (`python test_tokenization.py CORPUS STORE`) this file is the process that gets killed.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from transformers import DacConfig, DacModel

from focallm.data.corpus import read_corpus
from focallm.data.token_store import TokenStore, describe
from focallm.data.tokenization import tokenize_corpus
from focallm.data.utterance import Utterance
from focallm.tokenizer import AudioTokenizer, FocalCodecModel
from focallm.tokenizer.runs import locked

RATE = 16000


class FakeTokenizer:
    """The calls of `AudioTokenizer`; a token is the rounded energy of 320 samples."""

    sampling_rate, output_sampling_rate, frame_rate = RATE, RATE, 50.0
    codebook_size = vocab_size = 8192
    num_codebooks, bits_per_second = 1, 650.0

    def __init__(self, delay_s: float = 0.0, seed: int = 0) -> None:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, seed)
        nn.init.zeros_(model.bias)
        model.name_or_path = "fake"
        self.codec = SimpleNamespace(pretrained_model=model)
        self.delay_s = delay_s
        self.batches: list[list[int]] = []

    def __call__(self, audio: list[np.ndarray], sampling_rate: int | None = None) -> dict[str, torch.Tensor]:
        assert sampling_rate == RATE
        time.sleep(self.delay_s)
        self.batches.append([len(wave) for wave in audio])
        if any(len(wave) == 13 for wave in audio):
            raise ValueError("13 samples bring bad luck")
        frames = [np.abs(np.pad(w, (0, -len(w) % 320))).reshape(-1, 320).sum(1).astype(int) for w in audio]
        ids = torch.zeros(len(audio), max(map(len, frames)), dtype=torch.long)
        for row, codes in zip(ids, frames, strict=True):
            row[: len(codes)] = torch.from_numpy(codes)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(codes)] for codes in frames])
        return {"input_ids": ids, "attention_mask": mask.long(), "num_samples": torch.tensor([len(w) for w in audio])}

    def decode(self, ids: np.ndarray, num_samples: int) -> np.ndarray:
        return np.repeat(np.asarray(ids) / 1000, 320)[:num_samples].astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen files of 1 sample to 1.3 s at two rates, one of them not audio."""
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for index in range(12):
        rate = 22050 if index % 5 == 4 else RATE
        size = 1 if index == 7 else int(random.uniform(0.05, 1.3) * rate)
        soundfile.write(root / f"{index:02d}.wav", random.uniform(-0.5, 0.5, size), rate)
        (root / f"{index:02d}.txt").write_text(f"This is number {index}.")
    (root / "05b.wav").write_text("not audio")
    return root


@pytest.fixture(scope="module")
def corpus(folder: Path) -> list[Utterance]:
    return read_corpus(folder)


@pytest.fixture(scope="module")
def whole(corpus: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that an undisturbed run makes."""
    store = tmp_path_factory.mktemp("whole") / "store"
    _tokenize(corpus, store)
    return store


def _tokenize(corpus: list[Utterance], store: Path, tokenizer: object = None, **options: object) -> dict | None:
    options = {"shard_size": 2, "progress": False, "listen": 0, **options}
    return tokenize_corpus(corpus, store, tokenizer or FakeTokenizer(), **options)


def _hashes(store: Path) -> list[str]:
    return [shard["sha256"] for shard in TokenStore(store, verify=True).manifest["shards"]]


def test_the_store_holds_the_tokens_in_corpus_order(corpus: list[Utterance], whole: Path) -> None:
    store = TokenStore(whole)
    readable = [item for item in corpus if item.id != "05b"]
    assert [row["id"] for row in store] == [item.id for item in readable]
    for row, item in zip(store, readable, strict=True):
        wave, _ = item.read(RATE)
        np.testing.assert_array_equal(row["codes"], FakeTokenizer()([wave], RATE)["input_ids"][0])
        assert row["num_samples"] == len(wave)
        assert row["text"] == item.text
        assert row["speaker"] is None


@pytest.mark.parametrize(("batch_seconds", "workers"), [(0.01, 1), (1.7, 3), (1000.0, 2)])
def test_batches_and_workers_change_no_byte(
    corpus: list[Utterance], whole: Path, tmp_path: Path, batch_seconds: float, workers: int
) -> None:
    tokenizer = FakeTokenizer()
    _tokenize(corpus, tmp_path / "store", tokenizer, batch_seconds=batch_seconds, workers=workers)
    assert _hashes(tmp_path / "store") == _hashes(whole)
    assert all(len(b) == 1 or max(b) * len(b) <= (batch_seconds + 0.01) * RATE for b in tokenizer.batches)
    assert (max(map(len, tokenizer.batches)) == 1) == (batch_seconds == 0.01)


def test_a_real_codec_gives_the_tokens_of_single_calls(
    corpus: list[Utterance], codec: Callable[[str], FocalCodecModel], tmp_path: Path
) -> None:
    tokenizer = AudioTokenizer(codec("mel"))
    small, large = tmp_path / "small", tmp_path / "large"
    _tokenize(corpus, small, tokenizer, batch_seconds=0.01, shard_size=20)
    manifest = _tokenize(corpus, large, tokenizer, batch_seconds=60, shard_size=20, listen=2)
    assert _hashes(small) == _hashes(large)
    for row in TokenStore(large):
        single = tokenizer(next(item.audio for item in corpus if item.id == row["id"]))
        np.testing.assert_array_equal(row["codes"], single["input_ids"][0])
        assert row["num_samples"] == single["num_samples"][0]
    assert manifest is not None
    assert manifest["codec"]["frame_rate"] == 25
    assert len(list((large / "listen").glob("*.decoded.wav"))) == 2


def test_a_codec_of_transformers_with_several_codebooks(corpus: list[Utterance], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5, 8]}
    DacModel(DacConfig(**sizes, n_codebooks=3, codebook_size=32)).save_pretrained(tmp_path / "dac")
    tokenizer = AudioTokenizer.from_pretrained(tmp_path / "dac")
    _tokenize(corpus[:3], tmp_path / "store", tokenizer)
    store = TokenStore(tmp_path / "store")
    assert store.manifest["codec"]["num_codebooks"] == 3
    for row, item in zip(store.dataset(), corpus, strict=False):
        wave, rate = item.read(tokenizer.sampling_rate)
        assert row["codes"] == tokenizer(wave, sampling_rate=rate)["input_ids"][0].tolist()


def test_killed_and_run_again_it_ends_with_the_same_hashes(folder: Path, whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = subprocess.Popen([sys.executable, __file__, str(folder), str(store)])
    deadline = time.monotonic() + 60
    while not (store / "progress" / "shard-00001.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it made no second shard in a minute"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    with pytest.raises(FileNotFoundError, match=r"unfinished token store.*run the same tokenize command again"):
        TokenStore(store)
    # As after a kill while a shard was being written, and one between a shard and its record.
    (store / ".shard-00003.parquet.0.part").write_bytes(b"PAR1 half")
    (store / "shard-00003.parquet").write_bytes(b"PAR1 without a record")
    before = (store / "shard-00000.parquet").stat().st_mtime_ns
    tokenizer = FakeTokenizer()
    _tokenize(read_corpus(folder), store, tokenizer)
    assert _hashes(store) == _hashes(whole)
    assert (store / "shard-00000.parquet").stat().st_mtime_ns == before
    assert sum(map(len, tokenizer.batches)) <= 12 - 4
    assert not list(store.glob(".*"))


def test_a_finished_store_is_left_alone(corpus: list[Utterance], whole: Path) -> None:
    tokenizer = FakeTokenizer()
    manifest = TokenStore(whole).manifest
    assert _tokenize(corpus, whole, tokenizer) == manifest
    assert not tokenizer.batches


def test_a_damaged_shard_is_refused_and_made_again(corpus: list[Utterance], whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    damaged = store / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"shard-00002.*sha256 differs"):
        TokenStore(store)[0]
    _tokenize(corpus, store)
    assert _hashes(store) == _hashes(whole)
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 7 shards, first shard-00002\.parquet"):
        TokenStore(store)
    _tokenize(corpus, store)
    assert _hashes(store) == _hashes(whole)


def test_processes_share_the_work(
    corpus: list[Utterance], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "in_turn"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert _tokenize(corpus, store) is None
    assert sorted(path.name for path in store.glob("*.parquet")) == [f"shard-0000{n}.parquet" for n in (1, 3, 5)]
    monkeypatch.setenv("RANK", "0")
    assert _tokenize(corpus, store) is not None
    assert _hashes(store) == _hashes(whole)
    with ThreadPoolExecutor(3) as pool:  # all at once
        store = tmp_path / "at_once"
        done = list(pool.map(lambda rank: _tokenize(corpus, store, rank=rank, world_size=3), range(3)))
    assert any(done)
    assert _hashes(store) == _hashes(whole)


def test_a_second_process_of_the_same_rank_is_refused(corpus: list[Utterance], tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    lock = tmp_path / "progress" / ".lock-0"
    with locked(tmp_path, lock):
        with pytest.raises(OSError, match=r"is in use: process \d+ on"):
            _tokenize(corpus, tmp_path)
        assert _tokenize(corpus, tmp_path, rank=1, world_size=2) is None
    assert _tokenize(corpus, tmp_path) is not None


def test_another_codec_corpus_or_shard_size_is_not_mixed_in(
    corpus: list[Utterance], whole: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"made by another codec.*weights_sha256"):
        _tokenize(corpus, whole, FakeTokenizer(seed=1))
    with pytest.raises(ValueError, match=r"from other utterances.*number of utterances: 13 there, 12 now"):
        _tokenize(corpus[1:], whole)
    with pytest.raises(ValueError, match="shard_size: 2 there, 3 now"):
        _tokenize(corpus, whole, shard_size=3)
    with pytest.raises(ValueError, match="is not empty and not a token store"):
        _tokenize(corpus, folder)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: name a folder"):
        _tokenize(corpus, tmp_path / "file")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert _tokenize(read_corpus(moved), whole) == TokenStore(whole).manifest  # the same corpus in another folder


def test_unreadable_recordings_are_skipped_and_listed(corpus: list[Utterance], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "unlucky.wav", np.zeros(13), RATE)
    corpus = [*corpus[:8], Utterance("gone", tmp_path / "gone.wav"), Utterance("bad", tmp_path / "unlucky.wav")]
    manifest = _tokenize(corpus, tmp_path / "store", shard_size=20)
    assert manifest is not None
    assert (manifest["num_utterances"], manifest["num_skipped"]) == (7, 3)
    header, *rows = [line.split("\t") for line in (tmp_path / "store/skipped.tsv").read_text().splitlines()]
    assert header == ["id", "audio", "reason"]
    assert [row[0] for row in rows] == ["05b", "gone", "bad"]
    assert rows[1][1:] == [
        str(tmp_path / "gone.wav"),
        f"there is no audio file {tmp_path / 'gone.wav'}: check the path",
    ]
    assert rows[2][2] == "13 samples bring bad luck"


def test_no_file_ends_a_corpus(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    source.mkdir()
    soundfile.write(source / "good.wav", np.full(1600, 0.1), RATE)
    soundfile.write(source / "huge.flac", np.zeros(1600), RATE)
    data = bytearray((source / "huge.flac").read_bytes())
    data[21] |= 15
    data[22:26] = b"\xff" * 4
    (source / "huge.flac").write_bytes(data)
    (source / "cut.flac").write_bytes(data[:-4])
    (source / "text.mp3").write_text("no audio")
    (source / "empty.ogg").touch()
    (source / "folder.wav").mkdir()
    (source / "gone.wav").symlink_to(tmp_path / "gone.wav")
    (source / os.fsdecode(b"caf\xe9.wav")).write_text("no audio")
    bad = {"huge", "cut", "text", "empty", "folder", "gone", "caf\\udce9"}
    for _ in range(2):  # the second time as a rerun
        manifest = _tokenize(read_corpus(source, max_seconds=100), tmp_path / "store")
        assert manifest is not None
        assert (manifest["num_utterances"], manifest["num_skipped"]) == (1, len(bad))
        rows = (tmp_path / "store/skipped.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
        assert {row.split("\t")[0] for row in rows} == bad
    assert "7 unreadable (listed in skipped.tsv)" in describe(manifest)


def test_a_file_that_does_not_fit_into_memory_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(1600, 0.1), RATE)
    read = Utterance.read

    def read_or_fail(utterance: Utterance, rate: int) -> tuple[np.ndarray, int]:
        if utterance.id == "b":
            raise MemoryError
        return read(utterance, rate)

    monkeypatch.setattr(Utterance, "read", read_or_fail)
    manifest = _tokenize(read_corpus(tmp_path), tmp_path / "store")
    assert manifest is not None
    assert (manifest["num_utterances"], manifest["num_skipped"]) == (1, 1)
    assert (tmp_path / "store/skipped.tsv").read_text().endswith("it cannot be read (MemoryError)\n")


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    gone = Utterance("gone", tmp_path / "gone.wav")
    with pytest.raises(ValueError, match="none of 1 files could be read; the first: there is no audio file"):
        _tokenize([gone], tmp_path / "store")
    with pytest.raises(ValueError, match="no utterances"):
        _tokenize([], tmp_path / "empty")
    with pytest.raises(ValueError, match=r"two utterances have the id 'gone'"):
        _tokenize([gone, gone], tmp_path / "twice")
    with pytest.raises(ValueError, match="rank from 0 to 1, found 2"):
        _tokenize([gone], tmp_path / "rank", rank=2, world_size=2)
    with pytest.raises(ValueError, match="extra column 'codes'"):
        _tokenize([Utterance("a", gone.audio, extra={"codes": 1})], tmp_path / "extra")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("value", [10**30, {}, {"a": {}}, "\ud800"])
def test_an_extra_value_that_cannot_be_stored_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="the extra column 'note' holds values"):
        _tokenize([Utterance("a", tmp_path / "a.wav", extra={"note": value})], tmp_path / "store")


def test_originals_and_decodings_to_listen_to(corpus: list[Utterance], tmp_path: Path) -> None:
    _tokenize(corpus, tmp_path / "store", listen=3)
    names = sorted(path.name for path in (tmp_path / "store/listen").iterdir())
    assert len(names) == 6
    for original, decoded in zip(names[1::2], names[::2], strict=True):
        a, b = (soundfile.info(tmp_path / "store/listen" / name) for name in (original, decoded))
        assert (original[:-13], decoded[-12:]) == (decoded[:-12], ".decoded.wav")
        assert abs(a.duration - b.duration) < 1e-4


if __name__ == "__main__":
    os.environ.pop("RANK", None)
    _tokenize(read_corpus(sys.argv[1]), Path(sys.argv[2]), FakeTokenizer(delay_s=0.25))
