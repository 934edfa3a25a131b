import json

import numpy as np
import pytest

from focallm.data.corpora import read_corpus
from focallm.data.tokenization import tokenize_corpus
from focallm.lm import SpeechLM
from focallm.tasks import speak
from focallm.tasks.train import train_task
from focallm.tokenizer import AudioTokenizer, write_audio

RECIPE = """
model: tiny
max_length: 200
validation_fraction: 0.2
trainer: {max_steps: 2, per_device_train_batch_size: 4, use_cpu: true, eval_strategy: "no", report_to: []}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec):
    """A folder with a codec, a token store of ten utterances and a recipe."""
    folder = tmp_path_factory.mktemp("place")
    audio_tokenizer = AudioTokenizer(codec("tiny_25hz"))
    audio_tokenizer.save_pretrained(folder / "codec")
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        write_audio(folder / f"{i}.wav", 0.1 * rng.standard_normal(8000 + 1000 * i).astype(np.float32), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": "what is said " * (1 + i // 9 * 20)})
    rows[0]["text"] = None
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenize_corpus(read_corpus(folder), folder / "store", audio_tokenizer, listen=0, progress=False)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_from_a_token_store_to_a_model_that_speaks(place, tmp_path, capsys):
    said = train_task("tts", place / "store", tmp_path, place / "recipe.yaml", str(place / "codec"))
    assert "validation loss" in said
    assert "expected loss  9.01 nats" in capsys.readouterr().out
    lm = SpeechLM.from_pretrained(tmp_path / "model")
    assert lm.info.voices == ("speaker",)  # the corpus names none
    assert speak("what", lm).stop_reason in ("end", "length")


def test_a_store_of_another_codec_is_refused(place, tmp_path, codec):
    AudioTokenizer(codec("tiny_50hz")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"differs from .* in .*'weights_sha256'.*'frame_rate'"):
        train_task("tts", place / "store", tmp_path / "run", place / "recipe.yaml", str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


def test_a_store_with_nothing_to_learn_from_is_refused(place, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("max_length: 200", "max_length: 3"))
    with pytest.raises(ValueError, match="gives 0 examples to learn from"):
        train_task("tts", place / "store", tmp_path / "run", tmp_path / "r.yaml", str(place / "codec"))


def test_an_unknown_task_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="no task is called 'sing'"):
        train_task("sing", place / "store", tmp_path, None, "mini")
