import pytest

from focallm.lm import Vocabulary
from focallm.tasks.template import IGNORED, TTS


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(["Hello, Ann"], 32)


ROW = {"speaker": "ann", "text": "Hello", "codes": [3, 1, 2]}


def test_loss_falls_on_the_target_and_its_end_only(vocabulary):
    example = TTS.example(vocabulary, ROW)
    learnt = [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label != IGNORED]
    assert learnt == [*vocabulary.audio_ids([3, 1, 2]), vocabulary.control("end")]
    assert all(label in (IGNORED, i) for i, label in zip(example["input_ids"], example["labels"], strict=True))


def test_the_prompt_is_the_example_up_to_where_the_model_writes(vocabulary):
    example = TTS.example(vocabulary, ROW)
    prompt = TTS.prompt(vocabulary, speaker="ann", text="Hello")
    assert example["input_ids"][: len(prompt)] == prompt
    assert prompt[-1] == vocabulary.control("speech")
    assert all(label == IGNORED for label in example["labels"][: len(prompt)])
    assert example["labels"][len(prompt)] != IGNORED


def test_a_missing_column_is_named(vocabulary):
    with pytest.raises(ValueError, match=r"needs 'text', found only \['codes', 'speaker'\]"):
        TTS.example(vocabulary, {**ROW, "text": None})
