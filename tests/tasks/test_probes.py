import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from focallm.data.token_store import describe_codec, sha256
from focallm.lm.embeddings import code_vectors
from focallm.tasks.cli import commands as cli
from focallm.tasks.evaluation.probes import training
from focallm.tasks.evaluation.probes.data import CharacterTarget, ClassTarget, read_splits
from focallm.tasks.evaluation.probes.probe_config import ProbeConfig
from focallm.tasks.evaluation.probes.probing import probe
from focallm.tasks.evaluation.probes.training import BiLSTM, Probe
from focallm.tokenizer import AudioTokenizer, write_audio
from focallm.tokenizer.configs import load_config
from focallm.tokenizer.runs import locked

ROOT = Path(__file__).parents[2]
TWO_CODEBOOKS = ROOT / "tests" / "fixtures" / "codecs" / "speechtokenizer"
TINY = ProbeConfig(hidden_size=8, dropout=0.0)


@pytest.fixture(scope="module")
def mel(tmp_path_factory, codec):
    """Folder of a codec with one codebook of 8192 codes."""
    folder = tmp_path_factory.mktemp("codec")
    AudioTokenizer(codec("mel")).save_pretrained(folder)
    return folder


def write_store(folder, codec, rows, **manifest):
    """A token store of rows whose codes are given."""
    folder.mkdir()
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["num_samples"] = [len(row["codes"]) * 320 for row in rows]
    pq.write_table(pa.table(columns), folder / "shard.parquet")
    shard = {"file": "shard.parquet", "sha256": sha256((folder / "shard.parquet").read_bytes())}
    num_tokens = sum(len(row["codes"]) for row in rows)
    counts = {"num_utterances": len(rows), "num_skipped": 0, "num_tokens": num_tokens, "codes_used": 1}
    rates = {"seconds": 1.0, "unigram_entropy_bits": 1.0, "real_time_factor": 1.0}
    about = {"codec": describe_codec(audio_tokenizer), "shards": [shard], **counts, **rates, **manifest}
    (folder / "manifest.json").write_text(json.dumps(about))
    return folder


def speakers(count=40, codebooks=1, size=8192):
    """Two speakers, each of whom uses one half of the codes of every codebook."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        codes = rng.integers(size // 2, size=(rng.integers(5, 12), codebooks)) + i % 2 * (size // 2)
        codes = codes + np.arange(codebooks) * size
        rows.append({"id": f"{i:03d}", "codes": codes.ravel().tolist(), "speaker": ("ann", "bob")[i % 2]})
    return rows


def write_recipe(path, **values):
    quick = {"hidden_size": 8, "batch_size": 4, "learning_rate": 0.02, "max_grad_norm": 1.0}
    path.write_text(json.dumps({**quick, **values}))
    return path


def result(run):
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("codebooks", [1, 3])
def test_logits_are_per_frame_or_per_item(codebooks):
    ids, lengths = torch.randint(10, (2, 7, codebooks)), torch.tensor([7, 4])
    tables = [torch.randn(10, 5) for _ in range(codebooks)]
    assert Probe(TINY, 29, False, tables)(ids, lengths).shape == (2, 7, 29)
    assert Probe(TINY, 4, True, tables)(ids, lengths).shape == (2, 4)
    assert Probe(TINY, 4, True, None, feature_dim=6)(torch.randn(2, 7, 6), lengths).shape == (2, 4)


@pytest.mark.parametrize("whole", [True, False])
def test_batching_does_not_change_logits(whole):
    torch.manual_seed(0)
    model = Probe(TINY, 5, whole, [torch.randn(10, 5) for _ in range(2)])
    ids, lengths = torch.randint(20, (3, 9, 2)), torch.tensor([4, 9, 1])
    together = model(ids, lengths)
    for item, answer, length in zip(ids, together, lengths, strict=True):
        alone = model(item[None, :length], length[None])[0]
        torch.testing.assert_close(answer if whole else answer[:length], alone)


def test_bilstm_equals_packed_torch_lstm():
    torch.manual_seed(0)
    ours, theirs = BiLSTM(3, 4, 2, 0.0), nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
    for i in range(2):
        for layer, suffix in ((ours.forward_layers[i], ""), (ours.backward_layers[i], "_reverse")):
            for name, weight in layer.named_parameters():
                weight.data = getattr(theirs, name.replace("_l0", f"_l{i}{suffix}")).data
    frames, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 5])
    packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    mask = (torch.arange(6) < lengths[:, None])[..., None]
    torch.testing.assert_close(ours(frames, lengths) * mask, expected)


@pytest.mark.parametrize("codebooks", [1, 2])
def test_embeddings_start_at_the_code_vectors_and_are_trainable(codebooks, mel):
    codec = AudioTokenizer.from_pretrained(mel if codebooks == 1 else TWO_CODEBOOKS, codebooks)
    tables = code_vectors(codec.codec)
    model = Probe(TINY, 2, True, tables)
    ids = torch.arange(codec.vocab_size).reshape(1, -1, codebooks)
    assert torch.equal(model.embedding.table.weight, torch.cat(tables))
    model(ids, torch.tensor([ids.shape[1]])).sum().backward()
    assert model.embedding.table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("codebooks", [1, 2])
def test_speakers_with_distinct_codes_are_recognized(codebooks, mel, tmp_path):
    codec = AudioTokenizer.from_pretrained(mel if codebooks == 1 else TWO_CODEBOOKS, codebooks)
    codec.save_pretrained(tmp_path / "codec")
    store = write_store(tmp_path / "store", tmp_path / "codec", speakers(60, codebooks, codec.codebook_size))
    recipe = write_recipe(tmp_path / "r.yaml", validation=0.2, test=0.2, epochs=8)
    summary = probe("speaker", store, tmp_path / "run", recipe, str(tmp_path / "codec"), quiet=True)
    found = result(tmp_path / "run")
    assert found["rate"] <= 0.1
    assert found["low"] <= found["rate"] <= found["high"]
    assert f"{100 * found['rate']:.1f} % errors" in summary
    assert (found["task"], found["split"], found["n"], found["classes"]) == ("speaker", "test", 12, 2)
    assert found["codec_hash"] == describe_codec(codec)["weights_sha256"]
    assert sum(item["errors"] for item in found["items"]) == round(found["rate"] * 12)


def letters(count=4):
    """Texts of two words whose every letter is three frames of one code."""
    words = ["ten", "old", "men", "sat", "by", "a", "big", "red"]
    texts = [f"{words[i % 8]} {words[(3 * i + 1) % 8]}" for i in range(count)]
    codes = [[100 * ord(letter) % 8192 for letter in text for _ in range(3)] for text in texts]
    return [{"id": str(i), "codes": c, "text": text} for i, (c, text) in enumerate(zip(codes, texts, strict=True))]


def test_asr_probe_overfits_four_texts(mel, tmp_path):
    store = write_store(tmp_path / "store", mel, letters())
    splits = {"validation": str(store), "test": str(store)}
    recipe = write_recipe(tmp_path / "r.yaml", hidden_size=24, num_layers=1, epochs=60, **splits)
    summary = probe("asr", store, tmp_path / "run", recipe, str(mel), quiet=True)
    found = result(tmp_path / "run")
    assert found["rate"] == 0
    assert all(item["prediction"] == item["label"] for item in found["items"])
    assert "0.0 % wrong words" in summary


def test_probe_on_features(mel, tmp_path):
    rows = speakers(24)
    for row in rows:
        row["features"] = np.full((len(row["codes"]), 3), 1.0 if row["speaker"] == "ann" else -1.0).tolist()
    store = write_store(tmp_path / "store", mel, rows)
    recipe = write_recipe(tmp_path / "r.yaml", input="features", validation=0.2, test=0.2, epochs=3)
    probe("speaker", store, tmp_path / "run", recipe, str(mel), quiet=True)
    assert result(tmp_path / "run")["rate"] == 0


@pytest.mark.parametrize("moment", ["evaluate_probe", "save_file", "write_whole"])
def test_a_resumed_run_equals_an_uninterrupted_one(moment, mel, tmp_path, monkeypatch):
    store, recipe = write_store(tmp_path / "store", mel, speakers(20)), write_recipe(tmp_path / "r.yaml", epochs=4)

    def run(name):
        probe("speaker", store, tmp_path / name, recipe, str(mel), quiet=True)
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return load_file(tmp_path / name / "probe.safetensors"), [{**line, "seconds": 0} for line in log]

    whole, log = run("whole")
    do, calls = getattr(training, moment), []

    def stop(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return do(*args)

    monkeypatch.setattr(training, moment, stop)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.setattr(training, moment, do)
    weights, again = run("broken")
    assert again == log
    assert all(torch.equal(whole[name], weight) for name, weight in weights.items())


def test_a_run_that_diverges_stops_with_the_reason(mel, tmp_path):
    store = write_store(tmp_path / "store", mel, speakers(20))
    recipe = write_recipe(tmp_path / "r.yaml", epochs=3, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"diverged in epoch 1: .* not finite.*Lower learning_rate \(1e\+30\)"):
        probe("speaker", store, tmp_path / "run", recipe, str(mel), quiet=True)
    with locked(tmp_path / "run"), pytest.raises(OSError, match="run is in use: process"):
        probe("speaker", store, tmp_path / "run", recipe, str(mel), quiet=True)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_run_continues_with_more_epochs_but_not_with_other_settings(mel, tmp_path):
    store = write_store(tmp_path / "store", mel, speakers(20))
    for epochs in (1, 2):
        recipe = write_recipe(tmp_path / "r.yaml", epochs=epochs)
        probe("speaker", store, tmp_path / "run", recipe, str(mel), quiet=True)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match=r"differs in \['dropout'\]"):
        probe("speaker", store, tmp_path / "run", write_recipe(tmp_path / "r.yaml", dropout=0.2), str(mel))


def read(task, store, recipe, codec):
    return read_splits(task, store, recipe, AudioTokenizer.from_pretrained(codec), str(codec))


def test_splits_share_every_speaker_but_no_utterance(mel, tmp_path):
    rows = [{**row, "id": f"{row['id']}-{copy}", "utterance": row["id"]} for row in speakers(40) for copy in range(2)]
    store = write_store(tmp_path / "store", mel, rows, mix={})
    splits = read("speaker", store, TINY, mel)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 64, "validation": 8, "test": 8}
    assert all(list(splits["test"]["label"]).count(name) == 4 for name in ("ann", "bob"))
    utterances = [{name.split("-")[0] for name in rows["id"]} for rows in splits.values()]
    assert sum(map(len, utterances)) == 40
    assert list(splits["test"]["id"]) == list(read("speaker", store, TINY, mel)["test"]["id"])
    other = read("speaker", store, dataclasses.replace(TINY, seed=1), mel)
    assert list(splits["test"]["id"]) != list(other["test"]["id"])


def test_emotions_of_a_corpus_are_probed(mel, tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(0), []
    for i in range(20):
        write_audio(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(4000).astype(np.float32), 16000)
        emotion = ("sad", "hap", "ang", "neu")[i % 4]
        rows.append({"audio": f"{i}.wav", "emotion": emotion, "session": 4 + i // 10, "gender": "FM"[i // 4 % 2]})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["tokenize", tmp_path, tmp_path / "store", "--codec", mel, "--quiet"]
    monkeypatch.setattr(sys, "argv", ["focallm", *map(str, words)])
    cli.main()
    by = {"validation": {"session": 5, "gender": "F"}, "test": {"session": 5, "gender": "M"}}
    recipe = write_recipe(tmp_path / "r.yaml", epochs=1, **by)
    splits = read("emotion", tmp_path / "store", load_config(ProbeConfig, recipe), mel)
    assert sorted(splits["test"]["id"]) == ["12", "13", "14", "15"]
    assert len(splits["train"]) == 10
    words = ["probe", "emotion", tmp_path / "store", tmp_path / "run", "--recipe", recipe, "--codec", mel, "--quiet"]
    monkeypatch.setattr(sys, "argv", ["focallm", *map(str, words)])
    cli.main()
    assert result(tmp_path / "run")["classes"] == 4


def test_unsuitable_stores_are_refused(mel, tmp_path, codec):
    rows = letters(10)
    store = write_store(tmp_path / "store", mel, rows)
    with pytest.raises(ValueError, match=r"asr, speaker, emotion can be probed, found 'age'"):
        probe("age", store, tmp_path / "run", None, str(mel))
    with pytest.raises(ValueError, match=r"emotion needs the columns \['emotion'\]"):
        read("emotion", store, TINY, mel)
    with pytest.raises(ValueError, match=r"needs the columns \['session'\]"):
        read("asr", store, dataclasses.replace(TINY, test={"session": 5}), mel)
    with pytest.raises(ValueError, match=r"no rows for \['validation', 'test'\]"):
        read("asr", write_store(tmp_path / "small", mel, rows[:2]), TINY, mel)
    silent = write_store(tmp_path / "silent", mel, [{**rows[0], "text": None}, *rows[1:]])
    with pytest.raises(ValueError, match=r"1 of 10 rows of .* have no text; the first is 0"):
        read("asr", silent, TINY, mel)
    dots = write_store(tmp_path / "dots", mel, [{**row, "text": "..."} for row in rows])
    with pytest.raises(ValueError, match=r"has no word: '...'"):
        probe("asr", dots, tmp_path / "run", None, str(mel))
    AudioTokenizer(codec("tiny_25hz")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"differs from .* in .*'weights_sha256'"):
        probe("asr", store, tmp_path / "run", None, str(tmp_path / "other"))


def test_a_speaker_without_training_rows_is_refused(mel, tmp_path):
    store = write_store(tmp_path / "store", mel, speakers(20))
    other = write_store(tmp_path / "other", mel, [{**row, "speaker": "eve"} for row in speakers(4)])
    with pytest.raises(
        ValueError, match=r"1 classes of the test split do not occur in the training split, such as \['eve'\]"
    ):
        read("speaker", store, dataclasses.replace(TINY, test=str(other)), mel)


def test_texts_with_more_characters_than_frames_are_counted(mel, tmp_path, caplog):
    rows = [{**row, "codes": row["codes"][:2]} if i < 8 else row for i, row in enumerate(letters(10))]
    store = write_store(tmp_path / "store", mel, rows)
    probe("asr", store, tmp_path / "run", write_recipe(tmp_path / "r.yaml", epochs=1), str(mel), quiet=True)
    assert "of 8 texts have more characters than frames" in caplog.text


def test_character_target_decodes_the_best_path():
    target = CharacterTarget()
    assert "".join(target.predict(torch.eye(29)[None, target.encode("Two, O'Neil! 12")], torch.tensor([99]))) == (
        "two o'neil twelve"
    )
    path = torch.eye(29)[None, [0, 1, 1, 0, 1, 2, 2, 3]]
    assert target.predict(path, torch.tensor([7])) == ["aab"]
    assert target.count_errors("It's twelve!", "its 12") == target.count_errors("it is twelve", "its twelve")
    assert ClassTarget(["a", "b"]).count_errors("a", "b") == (1, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "probes").glob("*.yaml")), ids=lambda path: path.stem)
def test_published_recipes_have_the_default_values(path):
    recipe = load_config(ProbeConfig, path)
    if not path.stem.startswith("mini"):
        assert recipe == ProbeConfig(validation=recipe.validation, test=recipe.test)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown keys \['epoch'\]; known keys: input, "),
        ({"epochs": 2.5}, "epochs: expected an integer, found 2.5"),
        ({"input": "waves"}, "input: expected one of 'codes', 'features', found 'waves'"),
        ({"test": 1.0}, "test must be a share"),
        ({"test": 0.6, "validation": 0.5}, "leave no rows for training"),
        ({"hidden_size": 0}, "must be at least 1"),
    ],
)
def test_invalid_recipes_are_refused(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_config(ProbeConfig, write_recipe(tmp_path / "r.yaml", **values))
