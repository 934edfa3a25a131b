import dataclasses
import re

import numpy as np
import pytest

from focallm.lm import Sampling
from focallm.tasks import speak
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import read_audio

TRANSCRIBED = {"text": "hi", "reference_text": "a", "sampling_rate": 16000}


@pytest.fixture
def lm(speech_lm):
    return speech_lm("tts", "zero-shot")


def test_even_an_untrained_model_gives_finite_audio_within_the_window(lm, tmp_path):
    result = speak("hello there", lm)
    low, high = lm.info.length_window.tokens(len("hello there"), 50)
    assert low <= result.stats["tokens"] <= high
    assert result.audio.shape == (result.stats["tokens"] * 320,)
    assert np.isfinite(result.audio).all()
    result.save(tmp_path / "a.wav")
    assert len(read_audio(tmp_path / "a.wav")[0]) == len(result.audio)


def test_the_same_seed_says_the_same(lm):
    assert np.array_equal(speak("hi", lm, seed=3).audio, speak("hi", lm, seed=3).audio)
    assert not np.array_equal(speak("hi", lm, seed=3).audio, speak("hi", lm, seed=4).audio)


def test_a_reading_without_end_is_tried_again_with_another_seed(lm, write):
    writer = write(lm, "max_length", "end")
    result = speak("hi", lm, seed=7)
    assert result.stop_reason == "end"
    assert result.stats["attempts"] == 2
    assert [call.seeds for call in writer.calls] == [[7], [7 + (1 << 20)]]


def test_only_the_readings_without_end_are_tried_again(lm, write):
    writer = write(lm, "end", "max_length", "end", "max_length", "max_length")
    results = speak(["hi", "ho", "hum"], lm)
    assert [result.stop_reason for result in results] == ["end", "max_length", "end"]
    assert [result.stats["attempts"] for result in results] == [1, 3, 1]
    assert [len(call.prompts) for call in writer.calls] == [3, 1, 1]


def test_spans_at_their_maximum_are_counted_and_alone_cause_no_retry(lm, write):
    writer = write(lm, "end")
    original = writer.write

    def reach_max(prompt, seed):
        generation = original(prompt, seed)
        generation.num_spans_at_max = 2
        return generation

    writer.write = reach_max
    result = speak("hi", lm)
    assert result.stop_reason == "end"
    assert (result.stats["num_spans_at_max"], result.stats["attempts"]) == (2, 1)


def test_when_no_attempt_ends_the_one_that_repeats_itself_least_is_given(lm, write):
    writer = write(lm, "max_length", "max_length", "max_length")
    original, spans = writer.write, iter([3, 10, 5])

    def repeat(prompt, seed):
        generation, different = original(prompt, seed), next(spans)
        generation.codes = generation.codes[:different].repeat(30)
        return generation

    writer.write = repeat
    result = speak("hi", lm)
    assert result.stop_reason == "max_length"
    assert result.stats["attempts"] == 3
    assert result.stats["tokens"] == 300
    assert len(result.audio) == 300 * 320


def test_the_voice_and_the_text_are_in_the_prompt(lm, write):
    writer = write(lm)
    assert speak("hi", lm, voice="bob").stats["voice"] == "bob"
    assert speak("hi", lm).stats["voice"] == "ann"
    bob, ann = (lm.vocabulary.tokenizer.decode(call.prompts[0].ids) for call in writer.calls)
    assert bob == "<|voice|>bob<|text|>hi<|speech|>"
    assert ann == "<|voice|>ann<|text|>hi<|speech|>"


def test_the_voice_of_a_recording(lm, write):
    writer = write(lm)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3200)
    assert (
        speak("hi", lm, reference=noise, reference_text="ha", sampling_rate=16000).stats["voice"] == "of the reference"
    )
    prompt_text = lm.vocabulary.tokenizer.decode(writer.calls[0].prompts[0].ids)
    assert re.fullmatch(r"<\|reference\|>ha<\|reference\|>(<\|audio_\d+\|>){9}<\|text\|>hi<\|speech\|>", prompt_text)
    assert len(speak("hi", lm, reference=noise, reference_text="ha", sampling_rate=16000).audio) > 0


def test_a_list_of_texts_gives_each_what_it_gives_alone(lm):
    texts = ["hello there", "hi", "a longer text than the others"]
    for result, text in zip(speak(texts, lm, seed=5), texts, strict=True):
        alone = speak(text, lm, seed=5)
        assert result.stats["tokens"] == alone.stats["tokens"]
        np.testing.assert_allclose(result.audio, alone.audio, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "  "}, "text is empty"),
        ({"text": "hi", "voice": "eve"}, "no voice is called 'eve': this model knows ann, bob"),
        ({"text": "hi " * 2000}, "positions"),
        ({"text": ["hi", ""]}, "text is empty"),
        ({"text": []}, "at least one text"),
        ({"text": "\U0001f600 1"}, "cannot spell \U0001f600 1: write the text in letters"),
        ({"text": "hi \u0416\u0416"}, "cannot spell \u0416"),
        ({"text": "\ud800"}, r"cannot spell \\ud800"),
        ({"text": "hi", "reference": [0.1] * 900}, "needs reference_text"),
        ({"text": "hi", "reference": [0.1] * 900, "reference_text": "a", "voice": "bob"}, "exclude each other"),
        ({"text": "hi", "reference": [0.1] * 900, "reference_text": "a"}, "has no sampling rate"),
        ({"reference": [0.1, 0.0] * 40, **TRANSCRIBED}, "lasts 5 ms, which is too short"),
        ({"reference": [0.1] * 16000, **TRANSCRIBED}, "is silent in its first 1.0 s"),
        ({"reference": [0.1, 0.0] * 90000, **TRANSCRIBED}, "lasts 11.2 s: one with a transcript cannot be cut"),
    ],
)
def test_invalid_arguments_are_explained(lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        speak(model=lm, **arguments)


def test_characters_without_spelling_are_named(lm, caplog):
    speak("ann \u0416 bob \ud800", lm)
    assert r"cannot spell \u0416 \ud800 and leaves it out" in caplog.text.replace("\u0416", r"\u0416")


def test_a_greedy_reading_is_not_tried_again(lm, write):
    writer = write(lm, "max_length")
    assert speak("hi", lm, sampling=Sampling(0)).stats["attempts"] == len(writer.calls) == 1


def test_a_seed_of_numpy_is_a_seed(lm):
    assert np.array_equal(speak("hi", lm, seed=np.int64(3)).audio, speak("hi", lm, seed=3).audio)


def test_a_model_of_another_task_is_refused(lm):
    lm.info = dataclasses.replace(lm.info, templates=(TEMPLATES["se"],))
    with pytest.raises(ValueError, match="trained for se, not for tts"):
        speak("hi", lm)


def test_a_model_that_was_never_trained_to_speak_is_refused(lm):
    lm.info = dataclasses.replace(lm.info, length_window=None, voices=())
    with pytest.raises(ValueError, match="was not trained to speak"):
        speak("hi", lm)


def test_a_file_is_no_model(tmp_path):
    with pytest.raises(OSError, match=r"holds no speech_lm\.json"):
        speak("hi", tmp_path)


def test_a_model_without_voices_asks_for_a_recording(speech_lm):
    lm = speech_lm("zero-shot")
    with pytest.raises(ValueError, match=r"no voices of its own.* --reference"):
        speak("hi", lm)
