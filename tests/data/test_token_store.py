"""Token stores: rows, datasets, counts, stable splits, descriptions and references."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from torch import nn

from focallm.data.corpus import read_corpus
from focallm.data.token_store import ReferenceDataset, TokenStore, describe
from focallm.data.tokenization import tokenize_corpus


class _TwoCodebooks:
    """Item i becomes 2 * (i + 1) ids, of which the second codebook's are 3 ... 5."""

    sampling_rate, output_sampling_rate, frame_rate = 100, 100, 10.0
    codebook_size, num_codebooks, vocab_size, bits_per_second = 3, 2, 6, 31.7

    def __init__(self) -> None:
        model = nn.Linear(1, 1)
        model.name_or_path = "two"
        self.codec = SimpleNamespace(pretrained_model=model)

    def __call__(self, audio: list[np.ndarray], sampling_rate: int) -> dict[str, torch.Tensor]:
        frames = [len(wave) // 10 for wave in audio]
        ids = torch.tensor([[0, 3] * max(frames)] * len(audio))
        mask = torch.arange(ids.shape[1]) < 2 * torch.tensor(frames)[:, None]
        return {"input_ids": ids, "attention_mask": mask, "num_samples": torch.tensor([len(w) for w in audio])}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("tokens") / "store", 10)


def _make(folder: Path, number: int) -> Path:
    rows = {
        "audio": [{"array": [0.1] * 10 * (i + 1), "sampling_rate": 100} for i in range(number)],
        "text": [None if i == 0 else f"number {i}" for i in range(number)],
        "speaker": [f"s{i % 3}" for i in range(number)],
        "page": list(range(number)),
    }
    tokenize_corpus(
        read_corpus(Dataset.from_dict(rows)), folder, _TwoCodebooks(), shard_size=4, listen=0, progress=False
    )
    return folder


def test_rows(store: Path) -> None:
    tokens = TokenStore(store)
    assert len(tokens) == len(list(tokens)) == 10
    row = tokens[2]
    assert row["codes"].dtype == np.int64
    assert row["codes"].tolist() == [0, 3] * 3
    del row["codes"]
    assert row == {"id": "000002", "num_samples": 30, "text": "number 2", "speaker": "s2", "page": 2}
    assert tokens[0]["text"] is None
    assert tokens[-1]["id"] == "000009"
    with pytest.raises(IndexError, match="utterance 10 of a token store with 10"):
        tokens[10]


def test_it_opens_as_a_dataset_with_and_without_focallm(store: Path, tmp_path: Path) -> None:
    ours = TokenStore(store).dataset()
    plain = load_dataset("parquet", data_files=str(store / "*.parquet"), split="train", cache_dir=str(tmp_path))
    assert ours.column_names == plain.column_names == ["id", "codes", "num_samples", "text", "speaker", "page"]
    assert ours.to_list() == plain.to_list()
    assert ours.features["codes"].feature.dtype == "uint16"


def test_counts(store: Path) -> None:
    manifest = TokenStore(store).manifest
    assert (manifest["num_utterances"], manifest["num_with_text"], manifest["num_speakers"]) == (10, 9, 3)
    assert manifest["seconds"] == pytest.approx(5.5)
    assert manifest["num_tokens"] == 110
    assert manifest["codes_used"] == 2
    assert manifest["unigram_entropy_bits"] == pytest.approx(1.0)
    assert manifest["lengths"]["tokens"] == {"min": 2, "median": 11, "mean": 11, "p95": pytest.approx(19.1), "max": 20}
    assert [shard["utterances"] for shard in manifest["shards"]] == [4, 4, 2]


def test_description(store: Path) -> None:
    text = describe(TokenStore(store).manifest)
    assert "10 files, 0.1 min, 0 unreadable\n" in text
    assert "20.0 tokens/s, 110 tokens, 2 of 6 codes used, unigram entropy 1.00 of 2.58 bits" in text
    assert "x real time" in text
    assert "wrote 3 shards and manifest.json (codec two, weights " in text


def test_a_split_depends_on_id_and_seed_only(store: Path, tmp_path: Path) -> None:
    larger = TokenStore(_make(tmp_path / "larger", 40))
    train, test = TokenStore(store).split(0.3, seed=1)
    assert sorted([*train["id"], *test["id"]]) == [f"{i:06d}" for i in range(10)]
    _, larger_test = larger.split(0.3, seed=1)
    assert set(test["id"]) == {name for name in larger_test["id"] if name < "000010"}
    assert TokenStore(store).split(0.3, seed=1)[1]["id"][:] == test["id"][:]
    assert larger.split(0.3, seed=2)[1]["id"][:] != larger_test["id"][:]
    assert abs(len(larger_test) - 12) <= 8
    assert list(test["id"]) == sorted(test["id"])


def test_no_split_is_empty(store: Path) -> None:
    assert len(TokenStore(store).split(1e-9)[1]) == 1
    assert len(TokenStore(store).split(1 - 1e-9)[0]) == 1
    assert len(TokenStore(store).split(0.0)[1]) == 0
    with pytest.raises(ValueError, match="eval_fraction must lie in"):
        TokenStore(store).split(1.0)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a token store.*focallm tokenize"):
        TokenStore(tmp_path)


def test_only_the_columns_asked_for_are_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, tokens, table = [], TokenStore(store), pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, columns: read.extend(columns) or table(path, columns=columns))
    assert tokens.columns == ["id", "codes", "num_samples", "text", "speaker", "page"]
    assert tokens.split(0.3, columns=["id", "text"])[0].column_names == ["id", "text"]
    assert set(read) == {"id", "text"}


# References


def rows_of(speakers, lengths=None, **columns):
    lengths = lengths or [5 + i for i in range(len(speakers))]
    rows = [
        {"id": str(i), "codes": [i] * length, "text": f"text {i}", "speaker": speaker}
        for i, (speaker, length) in enumerate(zip(speakers, lengths, strict=True))
    ]
    made = Dataset.from_list(rows)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made.with_format("numpy")


def test_a_reference_is_another_utterance_of_the_same_speaker_cut_to_length():
    rows = rows_of(["a", "b"] * 10)
    paired = ReferenceDataset(rows, rows, max_codes=4, whole=False, seed=0)
    assert len(paired) == 20
    for i in range(20):
        reference = set(np.asarray(paired[i]["reference_codes"]).tolist())
        assert len(paired[i]["reference_codes"]) == 4
        assert reference != {i}
        assert all(other % 2 == i % 2 for other in reference)


def test_whole_references_come_with_their_text():
    rows = rows_of(["a"] * 6, [3, 3, 9, 9, 9, 9])
    paired = ReferenceDataset(rows, rows, max_codes=4, whole=True, seed=0)
    assert {str(paired[i]["reference_text"]) for i in range(6)} == {"text 0", "text 1"}
    assert all(len(paired[i]["reference_codes"]) == 3 for i in range(6))


def test_a_speaker_with_a_single_utterance_is_left_out():
    rows = rows_of(["a", "a", "b", None, None])
    paired = ReferenceDataset(rows, rows, max_codes=9, whole=False, seed=0)
    assert [str(paired[i]["id"]) for i in range(len(paired))] == ["0", "1"]


def test_copies_of_one_utterance_are_no_reference_for_each_other():
    rows = rows_of(["a"] * 4, utterance=["x", "x", "x", "y"])
    paired = ReferenceDataset(rows, rows, max_codes=9, whole=False, seed=0, key="utterance")
    assert paired["speaker"] == ["a"] * 4
    assert [int(paired[i]["reference_codes"][0]) for i in range(3)] == [3, 3, 3]
    assert int(paired[3]["reference_codes"][0]) != 3


def test_the_choice_follows_from_the_id_and_the_seed():
    rows = rows_of(["a"] * 50)

    def chosen(rows, seed):
        paired = ReferenceDataset(rows, rows_of(["a"] * 50), max_codes=9, whole=False, seed=seed)
        return [int(paired[i]["reference_codes"][0]) for i in range(len(paired))]

    assert chosen(rows, 0) == chosen(rows, 0)
    assert chosen(rows, 0) != chosen(rows, 1)
    assert chosen(rows.select(range(40, 50)), 0) == chosen(rows, 0)[40:]
    assert len(set(chosen(rows, 0))) > 20
