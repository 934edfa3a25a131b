import numpy as np
import pytest

from focallm.tasks import continue_speech


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize(("rate", "samples"), [(16000, 1), (16000, 4321), (44100, 9999)])
def test_the_result_is_the_recording_and_what_follows(speech_lm, rate, samples):
    result = continue_speech(noise(samples), speech_lm("continuation"), 0.4, sampling_rate=rate)
    begins, new = round(result.stats["continuation_begins_s"] * 16000), result.stats["tokens"]
    assert 1 <= new <= 20
    assert len(result.audio) == begins + new * 320
    assert abs(begins - samples * 16000 / rate) <= 400
    assert result.stop_reason in ("end", "max_length")
    assert np.isfinite(result.audio).all()


def test_the_prompt_ends_with_the_recording(speech_lm, write):
    lm = speech_lm("continuation")
    writer = write(lm, "max_length")
    result = continue_speech(noise(3333), lm, 1.0, sampling_rate=16000)
    (prompt,) = writer.calls[0].prompts
    assert prompt.ids[0] == lm.vocabulary.control("speech")
    assert len(lm.vocabulary.codes(prompt.ids)) == len(prompt.ids) - 1
    assert (prompt.phases[0].min_length, prompt.phases[0].max_length) == (1, 50)
    assert result.stop_reason == "max_length"


def test_a_list_gives_each_what_it_gives_alone_and_the_seed_decides(speech_lm):
    lm, waves = speech_lm("continuation"), [noise(3000), noise(9000)]
    for result, wave in zip(continue_speech(waves, lm, 0.3, sampling_rate=16000), waves, strict=True):
        alone = continue_speech(wave, lm, 0.3, sampling_rate=16000)
        np.testing.assert_allclose(result.audio, alone.audio, atol=1e-4)
        assert not np.array_equal(alone.audio, continue_speech(wave, lm, 0.3, sampling_rate=16000, seed=1).audio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0.0}, "at least one frame, 0.02 s"),
        ({"sampling_rate": None}, "has no sampling rate"),
        ({"seconds": 600.0}, "positions"),
    ],
)
def test_invalid_arguments_are_explained(speech_lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        continue_speech(noise(3000), speech_lm("continuation"), **{"sampling_rate": 16000, **arguments})
