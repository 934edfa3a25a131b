import numpy as np
import pytest
import torch

from focallm.tasks import transcribe
from focallm.tasks.inference.transcribe import split_at_quiet_moments


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize(("rate", "samples"), [(16000, 1), (8000, 1234), (44100, 20001)])
def test_even_an_untrained_model_gives_a_text_that_ends(speech_lm, rate, samples):
    result = transcribe(noise(samples), speech_lm("asr"), sampling_rate=rate)
    assert isinstance(result.text, str)
    assert "<|" not in result.text
    assert result.stop_reason in ("end", "max_length")
    assert result.stats["seconds"] == round(samples * 16000 / rate) / 16000


def test_the_text_is_what_the_model_wrote_without_control_tokens(speech_lm, write):
    lm = speech_lm("asr")
    writer = write(lm, text="hi there")
    result = transcribe(noise(3333), lm, sampling_rate=16000)
    assert (result.text, result.stop_reason, result.stats["tokens"]) == ("hi there", "end", 8)
    prompt_text = lm.vocabulary.tokenizer.decode(writer.calls[0].prompts[0].ids)
    assert prompt_text.startswith("<|speech|><|audio_")
    assert prompt_text.endswith("><|text|>")
    assert writer.calls[0].sampling.temperature == 0


def test_no_recognized_text_is_an_empty_text(speech_lm, write):
    lm = speech_lm("asr")
    writer = write(lm)
    assert transcribe(np.zeros(4000, np.float32), lm, sampling_rate=16000).text == ""
    assert writer.calls[0].prompts[0].phases[0].min_length == 0


def test_long_recordings_are_transcribed_in_pieces_and_lists_in_one_batch(speech_lm, write):
    lm = speech_lm("asr")
    writer = write(lm, "end", "max_length", "end", text="a")
    results = transcribe([noise(40 * 16000), noise(16000)], lm, sampling_rate=16000)
    assert [result.text for result in results] == ["a a a", "a"]
    assert [result.stop_reason for result in results] == ["max_length", "end"]
    assert [len(call.prompts) for call in writer.calls] == [4]


def test_a_list_gives_each_what_it_gives_alone(speech_lm):
    lm, waves = speech_lm("asr"), [noise(3000), noise(9000)]
    for result, wave in zip(transcribe(waves, lm, sampling_rate=16000), waves, strict=True):
        assert result.text == transcribe(wave, lm, sampling_rate=16000).text


def test_pieces_are_cut_where_it_is_quiet():
    wave = torch.randn(10 * 1000, generator=torch.Generator().manual_seed(0))
    wave[3500:3700] = 0
    pieces = split_at_quiet_moments(wave, 1000, 4.0)
    assert torch.equal(torch.cat(pieces), wave)
    assert all(0 < len(piece) <= 4000 for piece in pieces)
    assert 3500 <= len(pieces[0]) <= 3700
    assert [len(piece) for piece in split_at_quiet_moments(wave[:4000], 1000, 4.0)] == [4000]


def test_a_model_of_another_task_is_refused(speech_lm):
    with pytest.raises(ValueError, match="trained for se, not for asr"):
        transcribe(noise(900), speech_lm("se"), sampling_rate=16000)


def test_a_model_with_few_positions_gets_shorter_pieces(speech_lm):
    lm = speech_lm("asr", max_position_embeddings=128)
    assert transcribe(noise(3 * 16000), lm, sampling_rate=16000).stats["seconds"] == 3.0
    with pytest.raises(ValueError, match="positions"):
        transcribe(noise(3 * 16000), speech_lm("asr", max_position_embeddings=32), sampling_rate=16000)
