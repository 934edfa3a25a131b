"""Enhancement, separation and conversion give exactly as much audio as their input has."""

import numpy as np
import pytest
import torch

from focallm.tasks import convert, enhance, separate
from focallm.tasks.definitions import TEMPLATES
from focallm.tasks.inference import speech_to_speech
from focallm.tasks.inference.speech_to_speech import input_fields
from focallm.tokenizer import AudioTokenizer, write_audio

SIZES = [(16000, 1), (16000, 3333), (8000, 1234), (44100, 9999), (22050, 320)]  # rate, samples


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def at_the_codec(rate: int, samples: int) -> int:
    return max(1, round(samples * 16000 / rate))


@pytest.mark.parametrize(("rate", "samples"), SIZES)
@pytest.mark.parametrize("task", ["se", "se-features"])
def test_enhanced_speech_lasts_exactly_as_long(speech_lm, task, rate, samples):
    result = enhance(noise(samples), speech_lm(task), sampling_rate=rate)
    assert result.audio.shape == (at_the_codec(rate, samples),)
    assert result.audio.dtype == np.float32
    assert np.isfinite(result.audio).all()
    assert result.stop_reason == "constraint"
    assert 1 <= result.stats["tokens"] <= -(-len(result.audio) // 320)
    assert result.stats["real_time_factor"] > 0


@pytest.mark.parametrize("codec_name", ["tiny_50hz", "tiny_50hz_causal"])
def test_some_of_the_input_is_given_back(speech_lm, codec_name):
    lm = speech_lm("se", codec_name=codec_name)
    noisy = noise(7777)
    enhanced, half, unchanged = (enhance(noisy, lm, sampling_rate=16000, dry=dry) for dry in (0.0, 0.5, 1.0))
    assert len(enhanced.audio) == len(half.audio) == len(unchanged.audio)
    np.testing.assert_allclose(half.audio, (enhanced.audio + unchanged.audio) / 2, atol=1e-6)
    assert half.audio.dtype == np.float32
    if half.sampling_rate == 16000:
        np.testing.assert_allclose(unchanged.audio, noisy, atol=1e-6)
    both = enhance([noisy, noisy[:3000]], lm, sampling_rate=16000, dry=0.5)
    np.testing.assert_allclose(both[0].audio, half.audio, atol=1e-5)
    for dry in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="dry is the share of the input in the result, from 0 to 1"):
            enhance(noisy, lm, sampling_rate=16000, dry=dry)


@pytest.mark.parametrize(("rate", "samples"), SIZES)
@pytest.mark.parametrize(("task", "num_speakers"), [("ss", 2), ("ss-features", 3)])
def test_separated_speakers_last_exactly_as_long(speech_lm, task, num_speakers, rate, samples):
    result = separate(noise(samples), speech_lm(task), num_speakers, sampling_rate=rate)
    assert result.audio.shape == (num_speakers, at_the_codec(rate, samples))
    assert np.isfinite(result.audio).all()


@pytest.mark.parametrize(("rate", "samples"), SIZES)
@pytest.mark.parametrize("task", ["vc", "tts"])
def test_converted_speech_lasts_exactly_as_long(speech_lm, task, rate, samples):
    result = convert(noise(samples), noise(5000), speech_lm(task), sampling_rate=rate)
    assert result.audio.shape == (at_the_codec(rate, samples),)
    assert result.stats["method"] == {"vc": "lm", "tts": "knn"}[task]
    assert np.isfinite(result.audio).all()


@pytest.mark.parametrize("codec_name", ["tiny_12_5hz", "tiny_50hz_causal"])
def test_other_token_and_sampling_rates(speech_lm, codec_name):
    """12.5 tokens a second with features at 50; and 24 kHz out, where the codec has it."""
    for task in ("se", "se-features") if codec_name == "tiny_12_5hz" else ("se",):
        lm = speech_lm(task, codec_name=codec_name)
        result = enhance(noise(7777), lm, sampling_rate=16000)
        assert result.sampling_rate == lm.audio_tokenizer.output_sampling_rate
        assert len(result.audio) == 7777 * result.sampling_rate // 16000


def test_every_kind_of_input_is_the_same_recording(speech_lm, tmp_path):
    lm, wave = speech_lm("se"), np.round(noise(3000) * 2**15) / 2**15
    write_audio(tmp_path / "a.wav", wave, 16000)
    whole = enhance(tmp_path / "a.wav", lm).audio
    for same in (wave, torch.from_numpy(wave), wave.tolist()):
        assert np.array_equal(enhance(same, lm, sampling_rate=16000).audio, whole)
    for same in ({"array": wave, "sampling_rate": 16000}, str(tmp_path / "a.wav")):
        assert np.array_equal(enhance(same, lm).audio, whole)


@pytest.mark.parametrize("task", ["se", "se-features"])
def test_a_list_gives_each_what_it_gives_alone(speech_lm, task):
    lm, waves = speech_lm(task), [noise(3000), np.zeros(700, np.float32), noise(5001)]
    for result, wave in zip(enhance(waves, lm, sampling_rate=16000), waves, strict=True):
        assert len(result.audio) == len(wave)
        np.testing.assert_allclose(result.audio, enhance(wave, lm, sampling_rate=16000).audio, atol=1e-4)


def test_a_list_of_mixtures(speech_lm):
    lm, waves = speech_lm("ss"), [noise(3000), noise(5001)]
    for result, wave in zip(separate(waves, lm, sampling_rate=[16000, 16000]), waves, strict=True):
        assert result.audio.shape == (2, len(wave))
        np.testing.assert_allclose(result.audio, separate(wave, lm, sampling_rate=16000).audio, atol=1e-4)


@pytest.mark.parametrize("task", ["se", "ss"])
def test_a_model_of_both_is_given_features_unless_codes_are_asked_for(speech_lm, write, task):
    lm, call = speech_lm(task, f"{task}-features"), separate if task == "ss" else enhance
    writer = write(lm)
    for input_kind, features in ((None, True), ("features", True), ("codes", False)):
        call(noise(3000), lm, sampling_rate=16000, input_kind=input_kind)
        assert (writer.calls[-1].prompts[0].features is not None) == features
    with pytest.raises(ValueError, match="input_kind is 'features' or 'codes', found 'sound'"):
        call(noise(3000), lm, sampling_rate=16000, input_kind="sound")
    with pytest.raises(ValueError, match=f"trained for {task}, not for {task}-features"):
        call(noise(3000), speech_lm(task), sampling_rate=16000, input_kind="features")


@pytest.mark.parametrize("task", ["se", "se-features", "ss"])
def test_long_recordings_go_through_in_windows_that_begin_with_what_was_written(speech_lm, write, task):
    lm, wave = speech_lm(task), noise(23 * 16000 + 5)  # 1149 tokens, windows of 500 that begin with 100
    writer = write(lm)
    result = (separate if task == "ss" else enhance)([wave, noise(200)], lm, sampling_rate=16000)[0]
    assert result.audio.shape[-1] == len(wave)
    assert [len(call.prompts) for call in writer.calls] == [2, 1, 1]
    first, second, third = (call.prompts[0] for call in writer.calls)
    assert [p.phases[0].max_length for p in (first, second, third)] == [500, 400, 249]
    assert [p.phases[-1].max_length for p in (first, second, third)] == (
        [500, 500, 349] if task == "ss" else [500, 400, 249]
    )
    begun = lm.vocabulary.codes(second.ids[-100:])
    assert begun == lm.vocabulary.codes(lm.vocabulary.audio_ids(writer.write(first, 0).spans[0][-100:]))
    if task == "se-features":
        features = lm.audio_tokenizer.codec.extract_features(torch.from_numpy(wave)[None])[0]
        assert torch.equal(torch.cat([first.features, second.features[100:], third.features[100:]]), features)


def test_a_model_with_few_positions_takes_smaller_windows(speech_lm):
    lm, wave = speech_lm("se", max_position_embeddings=64), noise(60 * 320)
    assert len(enhance(wave, lm, sampling_rate=16000).audio) == len(wave)
    with pytest.raises(ValueError, match="hold too little"):
        convert(wave, wave, speech_lm("vc", max_position_embeddings=64), sampling_rate=16000)


def test_the_voice_of_the_reference_reaches_both_methods(speech_lm, write):
    lm, wave = speech_lm("vc"), noise(3000)
    writer = write(lm)
    convert(wave, [noise(640), noise(960)], lm, sampling_rate=16000)  # two recordings of it
    prompt_text = lm.vocabulary.tokenizer.decode(writer.calls[0].prompts[0].ids)
    assert prompt_text.split("<|reference|>")[1].count("<|audio_") == 4
    a, b = (convert(wave, noise(n), lm, method="knn", sampling_rate=16000).audio for n in (4000, 5000))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(("task", "seconds"), [("vc", 10), ("tts", 60)])
def test_the_first_seconds_of_a_long_reference_are_used_and_logged(speech_lm, task, seconds, monkeypatch, caplog):
    long = np.concatenate([noise(seconds * 16000), np.zeros(8000, np.float32)])
    lm = speech_lm(task)
    whole, cut = (convert(noise(999), ref, lm, sampling_rate=16000, seed=1) for ref in (long, long[: seconds * 16000]))
    assert np.array_equal(whole.audio, cut.audio)
    assert caplog.messages.count(f"the reference lasts {seconds}.5 s, of which the first {seconds} s are used") == 1


def test_the_weights_in_the_package_convert(tmp_path):
    assert len(convert(noise(8001), noise(16000), sampling_rate=16000).audio) == 8001


def test_separated_speakers_are_saved_in_separate_files(speech_lm, tmp_path):
    result = separate(noise(3000), speech_lm("ss"), sampling_rate=16000)
    assert result.save(tmp_path / "new" / "a.wav") == [tmp_path / "new" / "a_1.wav", tmp_path / "new" / "a_2.wav"]
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda lm: enhance(noise(9), lm),
            "recording 0 is a ndarray, which has no sampling rate: pass sampling_rate",
        ),
        (lambda lm: enhance([], lm), "at least one recording"),
        (lambda lm: enhance([noise(9)], lm, sampling_rate=[1, 2]), "1 recordings and 2 rates"),
        (lambda lm: enhance(np.zeros(0), lm, sampling_rate=16000), "empty"),
        (lambda lm: enhance([0.1, float("nan")], lm, sampling_rate=16000), "NaN"),
        (lambda lm: separate(noise(9), lm, sampling_rate=16000), "trained for se, not for ss-features or ss"),
        (lambda lm: separate(noise(9), lm, 1, sampling_rate=16000), "at least 2 speakers"),
        (lambda lm: convert(noise(9), noise(9), lm, "lm", sampling_rate=16000), "not for vc"),
        (lambda lm: convert(noise(9), noise(80), lm, "knn", sampling_rate=16000), "lasts 5 ms, which is too short"),
        (lambda lm: convert(noise(9), np.zeros(16000), lm, "knn", sampling_rate=16000), "is silent in its first 1.0 s"),
        (lambda lm: convert(noise(9), 1e-4 * noise(16000), lm, sampling_rate=16000), "is silent"),
        (lambda lm: convert(noise(9), noise(9), lm, "sing", sampling_rate=16000), "method is 'lm' or 'knn'"),
    ],
)
def test_invalid_input_is_explained(speech_lm, call, message):
    with pytest.raises(ValueError, match=message):
        call(speech_lm("se"))


@pytest.mark.parametrize("codec_name", ["tiny_50hz", "tiny_12_5hz", "mel"])
@pytest.mark.parametrize("samples", [3 * 16000, 3 * 16000 + 1, 4 * 16000 + 399])
def test_features_of_very_long_recordings_are_as_many_as_in_one_pass(codec, codec_name, samples, monkeypatch):
    tokenizer, wave = AudioTokenizer(codec(codec_name)), torch.from_numpy(noise(samples))
    (whole,) = input_fields(TEMPLATES["se-features"], tokenizer, [wave])
    monkeypatch.setattr(speech_to_speech, "MAX_WHOLE_S", 1.0)
    (pieces,) = input_fields(TEMPLATES["se-features"], tokenizer, [wave])
    assert pieces["noisy_features"].shape == whole["noisy_features"].shape
    if codec_name == "mel":  # WavLM's attention sees the whole piece
        torch.testing.assert_close(pieces["noisy_features"], whole["noisy_features"], atol=1e-4, rtol=0)


def test_a_codec_that_hears_through_noise_needs_no_language_model(denoising_codec, tmp_path):
    tokenizer = AudioTokenizer(denoising_codec)
    waves = [noise(7777), noise(70 * 16000 + 1)]  # the second takes several windows
    short, long = enhance(waves, tokenizer, sampling_rate=16000)
    assert [len(short.audio), len(long.audio)] == [len(wave) for wave in waves]
    assert short.stop_reason == "constraint"
    assert short.stats["tokens"] == 0
    waveform = torch.from_numpy(waves[0])[None]
    with torch.no_grad():
        expected = denoising_codec.decoder(denoising_codec.extract_features(waveform))[0, :7777]
    np.testing.assert_allclose(short.audio, expected, atol=1e-5)
    # A folder is the same model.
    tokenizer.save_pretrained(tmp_path / "codec")
    np.testing.assert_allclose(enhance(waves[0], tmp_path / "codec", 16000).audio, short.audio, atol=1e-5)
    half = enhance(waves[0], tokenizer, 16000, dry=0.5)
    np.testing.assert_allclose(half.audio, (short.audio + waves[0]) / 2, atol=1e-5)
    with pytest.raises(ValueError, match="are for language models, but this model is a codec"):
        enhance(waves[0], tokenizer, 16000, input_kind="codes")


def test_a_codec_that_keeps_noise_is_refused():
    with pytest.raises(ValueError, match="keeps the noise of a recording: name one whose encoder is of type denoising"):
        enhance(noise(16000), AudioTokenizer.from_pretrained("mini"), 16000)
