"""Forced alignment finds the known frames of synthetic units, and is stored with a token store."""

import json
import sys

import numpy as np
import pytest

from focallm.data import forced_alignment
from focallm.data.forced_alignment import align, align_store, read_alignment, read_lexicon
from focallm.tasks.cli import commands as cli
from focallm.tokenizer import write_audio


def speak(rng, units, spectra):
    """Frames of a known duration for each unit, with noise. Returns features and durations."""
    frames = rng.integers(2, 7, size=len(units))
    clean = np.concatenate([np.tile(spectra[unit], (n, 1)) for unit, n in zip(units, frames, strict=True)])
    return (clean + 0.3 * rng.standard_normal(clean.shape)).astype(np.float32), frames.tolist()


def test_units_are_found_where_they_are():
    rng = np.random.default_rng(0)
    spectra = {unit: rng.standard_normal(16) for unit in ("▁", "a", "b", "c", "d", "e")}
    spectra |= {"▁a": spectra["a"], ".": spectra["▁"]}  # a prefix does not change the spectrum
    texts = [["▁", "a", *rng.permutation(["b", "c", "d", "e"]).tolist(), "▁a", "b", "."] for _ in range(60)]
    features, durations = zip(*(speak(rng, units, spectra) for units in texts), strict=True)
    found = align(features, texts, progress=False)
    assert [sum(frames) for frames in found] == [len(utterance) for utterance in features]
    assert min(map(min, found)) >= 1
    ends = np.concatenate([np.cumsum(frames) for frames in found])
    true_ends = np.concatenate([np.cumsum(frames) for frames in durations])
    assert np.mean(np.abs(ends - true_ends) <= 1) > 0.9  # equal parts: about a half
    assert align(features, texts, progress=False) == found


def test_fewer_frames_than_units_are_refused():
    with pytest.raises(ValueError, match="utterance 1 has 2 frames for 3 units"):
        align([np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32)], [["a"], ["a", "b", "c"]])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    folder, rng = tmp_path_factory.mktemp("aligned"), np.random.default_rng(0)
    rows = [
        {"id": str(i), "audio": f"{i}.wav", "text": text, "speaker": "ab"[i % 2]}
        for i, text in enumerate(["A cat sat.", "The dog, and a cat.", "Dogs sat.", "Really?", "...", None] * 3)
    ]
    for row in rows:
        row["id"] = row["audio"] = f"{len(list(folder.glob('*.wav')))}.wav"
        write_audio(folder / row["audio"], (0.1 * rng.standard_normal(16000)).astype(np.float32), 16000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in (["tokenize", str(folder), str(folder / "tokens"), "--features"], ["align", str(folder / "tokens")]):
        sys.argv = ["focallm", *words, "--quiet"]
        cli.main()
    return folder / "tokens"


def test_a_store_is_aligned_by_command(store):
    alignment, lexicon = read_alignment(store), read_lexicon(store)
    assert set(lexicon) >= {"cat", "dog", "dogs", "really"}
    assert 0 < len(alignment) <= 12  # four of every six texts have words; utterances with an overlong unit are left out
    for row in alignment.values():
        assert sum(row["frames"]) == 50
        assert len(row["frames"]) == len(row["units"])


def test_texts_that_cannot_be_aligned_are_listed_by_reason(tmp_path, caplog, monkeypatch):
    pytest.importorskip("espeakng_loader")
    # Every unit gets one frame.
    monkeypatch.setattr(forced_alignment, "align", lambda features, units, progress: [[1] * len(row) for row in units])
    texts = [
        "A cat sat.",
        "\u043a\u043e\u0442",
        "\U0001f600",
        "A cat \u65e5 sat.",
        "The dog. " * 30,
        "\ud83d. A dog sat.",
    ]
    rng = np.random.default_rng(1)
    folder = tmp_path / "odd"
    folder.mkdir()
    rows = [{"id": f"row {i}", "audio": f"{i}.wav", "text": text} for i, text in enumerate(texts)]
    for row in rows:
        write_audio(folder / row["audio"], (0.1 * rng.standard_normal(16000)).astype(np.float32), 16000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sys.argv = ["focallm", "tokenize", str(folder), str(folder / "tokens"), "--features", "--quiet"]
    cli.main()
    align_store(folder / "tokens", progress=False)
    assert "1 utterances have no word and are left out: row 2" in caplog.text
    assert "2 utterances have a word without phonemes and are left out: row 1, row 3" in caplog.text
    assert "1 utterances have more phonemes than frames and are left out: row 4" in caplog.text


def test_missing_texts_and_features_are_named(store, tmp_path):
    with pytest.raises(ValueError, match=f"focallm align {tmp_path}"):
        read_alignment(tmp_path)
    write_audio(tmp_path / "a.wav", np.zeros(16000, np.float32) + 0.01, 16000)
    sys.argv = ["focallm", "tokenize", str(tmp_path), str(tmp_path / "tokens"), "--quiet"]
    cli.main()
    with pytest.raises(ValueError, match=r"has no features: make another store with\n  focallm tokenize .* --features"):
        align_store(tmp_path / "tokens")
