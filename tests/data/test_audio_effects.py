"""Levels, noise, rooms and shifts of pitch and formants: their parameters can be measured in the result."""

import numpy as np
import pytest

from focallm.data.mixing.audio_effects import reverberate, shift_pitch_and_formants, time_stretch
from focallm.tokenizer.noise import active_level_db, colored_noise, cut_noise, level_db, onset_s

RATE = 16000


def test_speech_is_measured_without_its_pauses_and_noise_with_them():
    tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    wave = np.concatenate([np.zeros(RATE), tone, 1e-3 * tone, np.zeros(RATE)]).astype(np.float32)
    assert active_level_db(wave, RATE) == pytest.approx(-3.01, abs=0.01)
    assert level_db(wave) == pytest.approx(-9.03, abs=0.01)
    assert onset_s(wave, RATE) == pytest.approx(1.0, abs=0.02)
    assert active_level_db(tone[:10], RATE) < 0  # shorter than a frame
    with pytest.raises(ValueError, match="silent"):
        active_level_db(np.zeros(5, np.float32), RATE)


def test_recordings_are_cut_where_they_sound_and_repeated():
    rng = np.random.default_rng(0)
    wave = np.pad(rng.uniform(-1, 1, 500), (5000, 3000)).astype(np.float32)
    for _ in range(20):
        piece = cut_noise(wave, 12000, RATE, rng)
        assert len(piece) == 12000
        assert np.abs(piece[:320]).max() > 0
        np.testing.assert_array_equal(piece[:3500], piece[8500:])


def test_noise_colors():
    rng = np.random.default_rng(0)
    slopes = {}
    for _ in range(20):
        wave, color = colored_noise(RATE, RATE, rng)
        power = np.abs(np.fft.rfft(wave)) ** 2
        slopes[color] = 10 * np.log10(power[4000:8000].mean() / power[400:800].mean())
    assert slopes == pytest.approx({"white": 0, "pink": -10, "brown": -20}, abs=0.5)


def test_the_direct_sound_in_a_room_is_the_speech_itself(make_speech):
    pytest.importorskip("pyroomacoustics")
    rng = np.random.default_rng(0)
    click = np.zeros(RATE, np.float32)
    click[2000] = 1
    for rt60_s in (0.2, 0.5, 0.8):
        wet, distance = reverberate(click, RATE, rt60_s, rng)
        assert wet.shape == click.shape
        assert 0.4 < distance < 2.6
        assert np.abs(wet[:2000]).max() < 1e-6
        assert wet[2000] == pytest.approx(1, abs=1e-5)
        assert np.abs(wet).argmax() == 2000
        left = np.cumsum(wet[::-1].astype(np.float64) ** 2)[::-1]  # energy still to come
        decay = np.flatnonzero(left < left[2001] * 10**-3)[0] / RATE - 2000 / RATE
        assert 0.3 * rt60_s < decay < rt60_s  # 30 dB
    speech = make_speech(rng, 1.0).astype(np.float32)
    a, b = (reverberate(speech, RATE, 0.4, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("pitch", "formants"), [(0.7, 1.2), (1.5, 1.0), (1.2, 0.85)])
def test_pitch_and_formants_are_shifted(pitch, formants):
    rng, size = np.random.default_rng(0), 2 * RATE
    pulses = np.zeros(size)
    pulses[:: RATE // 125] = 1
    resonance = 0.97 ** np.arange(800) * np.cos(2 * np.pi * 1500 / RATE * np.arange(800))
    wave = (0.1 * np.convolve(pulses, resonance)[:size]).astype(np.float32)
    shifted = shift_pitch_and_formants(wave, RATE, pitch, formants, rng)
    assert shifted.shape == wave.shape
    spectrum = np.abs(np.fft.rfft(shifted[4000:-4000] * np.hanning(size - 8000)))
    hz = np.arange(len(spectrum)) * RATE / (size - 8000)
    cepstrum = np.fft.irfft(np.log(spectrum + 1e-6))
    period = 40 + int(np.argmax(cepstrum[40:220]))
    assert RATE / period == pytest.approx(125 * pitch, rel=0.03)
    loudest = hz[200 + np.argmax(spectrum[200:])]  # the harmonic next to the formant
    assert abs(loudest - 1500 * formants) < 125 * pitch


def test_a_pitch_shift_keeps_sounds_at_their_time(make_speech):
    rng = np.random.default_rng(0)
    wave = np.zeros(RATE, np.float32)
    wave[6000:9000] = make_speech(rng, 1.0)[6000:9000] + 0.1 * np.sin(np.arange(3000) * 0.1)
    for pitch in (0.7, 1.4):
        loud = np.flatnonzero(np.abs(shift_pitch_and_formants(wave, RATE, pitch, 1.1, rng)) > 0.01)
        assert abs(loud[0] - 6000) < 500
        assert abs(loud[-1] - 9000) < 500


@pytest.mark.parametrize("length", [1, 100, 700, 20000])
def test_any_length_can_be_stretched_and_shifted(length):
    wave = np.sin(np.arange(16000) * 0.05).astype(np.float32)
    assert time_stretch(wave, length, RATE).shape == (length,)
    assert np.isfinite(
        shift_pitch_and_formants(np.resize(wave, length), RATE, 1.3, 0.9, np.random.default_rng(0))
    ).all()
    middle = time_stretch(wave, 24000, RATE)[2000:-2000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * 16000 / len(middle) == pytest.approx(0.05 * RATE / 2 / np.pi, abs=3)
