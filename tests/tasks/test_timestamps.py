"""When words and phonemes are spoken."""

import json

import numpy as np
import pytest

from focallm.lm import SpeechLM
from focallm.lm.templates import Prompt
from focallm.tasks import speak, stream_speech
from focallm.tasks.inference.timestamps import Timestamp, phoneme_timestamps, word_timestamps, write_timestamps

TEXT = "Good morning, 20 people."
WORDS = ["good", "morning", "twenty", "people"]


@pytest.fixture(scope="module")
def lm():
    return SpeechLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def result(lm):
    return speak(TEXT, lm)


def test_phonemes_cover_the_audio_and_words_their_phonemes(lm, result):
    units = lm.units(TEXT)
    assert [phoneme.text for phoneme in result.phonemes] == [unit.removeprefix("▁") for unit in units]
    starts = [phoneme.start_s for phoneme in result.phonemes]
    ends = [phoneme.end_s for phoneme in result.phonemes]
    assert starts == [0, *ends[:-1]]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert ends[-1] == pytest.approx(len(result.audio) / result.sampling_rate)
    assert [word.text for word in result.words] == WORDS
    first_units = [i for i, unit in enumerate(units) if unit.startswith("▁") and unit != "▁"]
    assert [word.start_s for word in result.words] == [starts[i] for i in first_units]
    for word, following in zip(result.words, [*result.words[1:], None], strict=True):
        spoken = [item for item in result.phonemes if word.start_s <= item.start_s < word.end_s]
        assert spoken[-1].end_s == word.end_s
        assert not {",", ".", ""} & {item.text for item in spoken}
        assert following is None or word.end_s <= following.start_s


def test_pauses_are_quiet_where_the_timestamps_say(result):
    def loudness(pause):
        parts = []
        for phoneme in result.phonemes:
            if (phoneme.text in ("", ",", ".")) == pause:
                samples = slice(int(phoneme.start_s * 16000), int(phoneme.end_s * 16000))
                parts.append(result.audio[samples])
        return np.sqrt(np.mean(np.concatenate(parts) ** 2))

    assert loudness(pause=True) < 0.3 * loudness(pause=False)


def test_a_stream_knows_them_as_it_goes(lm, result):
    stream = stream_speech(TEXT, lm)
    counts = []
    duration_s = 0.0
    for chunk in stream:
        duration_s += len(chunk) / stream.sampling_rate
        counts.append(len(stream.words))
        # All that is heard is known, but for the phoneme that goes on.
        assert stream.phonemes[-1].end_s > duration_s - 1.2
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert stream.result.words == stream.words == result.words
    assert stream.result.phonemes == stream.phonemes == result.phonemes


def test_a_word_that_is_cut_between_two_pieces_goes_on():
    prompts = [
        Prompt([1], (), units=("▁", "▁a", "b"), words=("ab",)),
        Prompt([1], (), units=("▁", "▁c", "d"), words=("cde",)),
        Prompt([1], (), units=("▁", "e", ".")),
    ]
    phonemes = phoneme_timestamps(prompts, [1, 2, 1, 1, 1, 1, 1, 3, 2], 10)
    assert phonemes[1] == Timestamp("a", 0.1, 0.3)
    assert word_timestamps(prompts, phonemes) == [Timestamp("ab", 0.1, 0.4), Timestamp("cde", 0.5, 1.1)]
    assert word_timestamps(prompts, phonemes[:7]) == [Timestamp("ab", 0.1, 0.4)]


def test_words_of_a_long_text(lm, monkeypatch):
    monkeypatch.setattr("focallm.lm.pieces.MAX_UNITS", 8)
    result = speak(TEXT, lm)
    assert [word.text for word in result.words] == WORDS
    assert result.phonemes[-1].end_s == pytest.approx(len(result.audio) / 16000)


def test_the_file(lm, result, tmp_path):
    write_timestamps(tmp_path / "new" / "a.json", result.words, result.phonemes)
    content = json.loads((tmp_path / "new" / "a.json").read_text())
    assert content["words"][0] == {"text": "good", "start_s": result.words[0].start_s, "end_s": result.words[0].end_s}
    assert len(content["phonemes"]) == len(result.phonemes)
    with pytest.raises(ValueError, match="there are no timestamps: use a model that aligns"):
        write_timestamps(tmp_path / "b.json", [], [])
    assert not (tmp_path / "b.json").exists()


def test_models_without_alignment_have_none(speech_lm):
    result = speak("hi", speech_lm("tts"))
    assert result.words == result.phonemes == []
