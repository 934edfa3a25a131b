import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from focallm.lm import Generation, LengthWindow, SpeechLM, Vocabulary
from focallm.tasks import speak
from focallm.tokenizer import AudioTokenizer, read_audio


@pytest.fixture
def lm(codec) -> SpeechLM:
    """A random LM on a random codec, with two voices and the pace 0.1 s per character."""
    audio_tokenizer = AudioTokenizer(codec("tiny_50hz"))
    torch.manual_seed(0)
    lm = SpeechLM.from_config("tiny", audio_tokenizer, Vocabulary.characters(["ann bob"], audio_tokenizer.vocab_size))
    lm.info = dataclasses.replace(lm.info, length_window=LengthWindow(0.1, 0.1), voices=("ann", "bob"))
    return lm


class Scripted:
    """Stands for the LM's generate: gives the scripted stop reasons in turn and records what it was asked."""

    def __init__(self, *reasons: str) -> None:
        self.reasons, self.calls = list(reasons), []

    def __call__(self, prompt, length, sampling, seed):
        self.calls.append(SimpleNamespace(prompt=prompt, length=length, seed=seed))
        return Generation(torch.arange(10), self.reasons.pop(0))


def test_even_an_untrained_model_gives_finite_sound_within_the_window(lm, tmp_path):
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


def test_a_reading_without_end_is_tried_again_with_another_seed(lm, monkeypatch):
    script = Scripted("length", "end")
    monkeypatch.setattr(lm, "generate", script)
    result = speak("hi", lm, seed=7)
    assert result.stop_reason == "end"
    assert result.stats["attempts"] == 2
    assert script.calls[0].seed != script.calls[1].seed


def test_when_no_attempt_ends_the_result_says_so(lm, monkeypatch):
    monkeypatch.setattr(lm, "generate", Scripted("length", "length", "length"))
    result = speak("hi", lm)
    assert result.stop_reason == "length"
    assert result.stats["attempts"] == 3
    assert len(result.audio) > 0


def test_the_voice_and_the_text_are_in_the_prompt(lm, monkeypatch):
    script = Scripted("end", "end")
    monkeypatch.setattr(lm, "generate", script)
    assert speak("hi", lm, voice="bob").stats["voice"] == "bob"
    assert speak("hi", lm).stats["voice"] == "ann"
    bob, ann = (lm.vocabulary.tokenizer.decode(call.prompt) for call in script.calls)
    assert bob == "<|voice|>bob<|text|>hi<|speech|>"
    assert ann == "<|voice|>ann<|text|>hi<|speech|>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "  "}, "text is empty"),
        ({"text": "hi", "voice": "eve"}, "no voice is called 'eve': this model knows ann, bob"),
        ({"text": "hi " * 2000}, "positions: split the text"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        speak(model=lm, **arguments)


def test_a_model_of_another_task_is_refused(lm):
    lm.info = dataclasses.replace(lm.info, task="enhancement")
    with pytest.raises(ValueError, match="trained for 'enhancement', not for tts"):
        speak("hi", lm)


def test_a_model_that_was_never_trained_to_speak_is_refused(lm):
    lm.info = dataclasses.replace(lm.info, length_window=None, voices=())
    with pytest.raises(ValueError, match="has not been trained to speak"):
        speak("hi", lm)


def test_a_file_is_no_model(tmp_path):
    with pytest.raises(OSError, match=r"holds no speech_lm\.json"):
        speak("hi", tmp_path)
