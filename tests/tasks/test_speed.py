"""Faster and slower speech."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focallm.lm import SpeechLM
from focallm.tasks import speak, stream_speech
from focallm.tasks.inference.speed import SpeedChange, change_speed

speeds = st.floats(0.5, 2.0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), speeds, st.integers(1, 3), st.integers(1, 7))
def test_every_unit_keeps_its_share_of_the_duration(frames, speed, K, chunk):
    codes = list(range(K * sum(frames)))  # each its own place
    lengths = [K * n for n in frames]
    spoken, spoken_lengths = change_speed(torch.tensor(codes), lengths, speed, K)
    spoken = spoken.tolist()
    assert len(spoken) == sum(spoken_lengths)
    spoken_frames = [code // K for code in spoken]
    assert spoken_frames == sorted(spoken_frames)
    assert all(code % K == i % K for i, code in enumerate(spoken))  # whole frames
    ends = np.cumsum(lengths)
    start = 0
    for i, length in enumerate(spoken_lengths):
        assert length >= K
        unit = spoken[start : start + length]
        assert ends[i] - lengths[i] <= unit[0]
        assert unit[-1] < ends[i]
        start += length
    # Only units of one frame, which cannot be shorter, let the speech last longer.
    error = len(spoken) / K - sum(frames) / speed
    assert -0.5001 <= error
    assert error <= 0.5001 + sum(1 - n / speed for n in frames if n < speed)

    change = SpeedChange(speed, K)
    streamed = []
    sent = 0
    for start in range(0, len(codes), chunk):
        stop = min(start + chunk, len(codes))
        ended = int(np.searchsorted(ends, stop, "right"))
        streamed += change.push(codes[start:stop], lengths[sent:ended])[0]
        sent = ended
    assert streamed == spoken


def test_speed_1_changes_nothing():
    codes = torch.arange(6)
    assert change_speed(codes, [2, 4], 1.0, 1) == (codes, [2, 4])
    assert SpeedChange(1.0, 1).push(codes.tolist(), [2, 4]) == (codes.tolist(), [2, 4])
    assert change_speed(codes, (), 1.0, 1)[0] is codes  # also for models without alignment


def test_mini_speaks_faster_and_slower():
    lm = SpeechLM.from_pretrained("mini")
    usual = speak("It rains.", lm)
    assert np.array_equal(speak("It rains.", lm, speed=1.0).audio, usual.audio)
    for speed in (0.5, 1.25):
        result = speak("It rains.", lm, speed=speed)
        assert result.stats["tokens"] == usual.stats["tokens"]
        assert len(result.audio) == pytest.approx(len(usual.audio) / speed, abs=400)
        assert result.words[-1].end_s == pytest.approx(usual.words[-1].end_s / speed, abs=0.03)
        assert result.phonemes[-1].end_s == pytest.approx(len(result.audio) / 16000)
    stream = stream_speech("It rains.", lm, speed=1.25)
    assert sum(map(len, stream)) == len(result.audio)
    assert stream.result.phonemes == result.phonemes


def test_speeds_that_cannot_be_are_refused(speech_lm):
    lm = speech_lm("tts")
    for call in (speak, stream_speech):
        with pytest.raises(ValueError, match="speaks at speed 1 only: use a model that aligns"):
            call("hi", lm, speed=1.5)
        for speed in (0.4, 2.1, 0, float("nan")):
            with pytest.raises(ValueError, match="speed lies between"):
                call("hi", lm, speed=speed)
    assert len(speak("hi", lm, speed=1.0).audio) > 0
