from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from focallm.lm import SpeechLM, Vocabulary
from focallm.lm.generation import Generation
from focallm.lm.info import text_window
from focallm.lm.sampling import generation_defaults
from focallm.lm.training.dataset import ExampleDataset, Source
from focallm.lm.training.samples import SampleWriter, write_spans
from focallm.tasks import transcribe
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer


@pytest.fixture
def lm(monkeypatch):
    """A model of two codebooks that gives prepared answers, and the arguments of its calls."""
    tokenizer = SimpleNamespace(codebook_sizes=(8, 8), num_codebooks=2, vocab_size=16, tokens_per_second=100)
    tokenizer.codec = SimpleNamespace(is_binary=False)
    tokenizer.sampling_rate = tokenizer.output_sampling_rate = 16000
    tokenizer.decode = lambda codes: np.zeros(320 * len(codes) // 2, np.float32)
    made = SpeechLM.from_config("tiny", tokenizer, Vocabulary.characters(["abc"], (8, 8)))
    calls, answers = [], {}

    def generate(prompts, sampling=None, seed=0):
        calls.append(SimpleNamespace(prompts=prompts, sampling=sampling, seeds=seed))
        return [answers.get(item_seed, Generation((torch.zeros(4, dtype=torch.long),), "end")) for item_seed in seed]

    monkeypatch.setattr(made, "generate", generate)
    return SimpleNamespace(lm=made, calls=calls, answers=answers)


def sampled(lm, folder, word_errors, *tasks):
    row = {"text": "abc", "speaker": "a", "num_samples": 1600, "codes": [1, 9] * 5, "noisy_codes": [2, 9] * 5}
    examples = ExampleDataset([Source(TEMPLATES[task], [row]) for task in tasks], lm.vocabulary, 99)
    return SampleWriter(lm, examples, 9, folder, word_errors)(0)


def test_a_continuation_begins_with_whole_frames_and_is_measured_with_what_it_continues(lm, tmp_path):
    lm.answers[0] = Generation((torch.tensor([1, 9] * 3),), "end")  # equal to the original
    counted = []
    measures = sampled(lm.lm, tmp_path, lambda *args: counted.append(args) or (0, 1), "continuation")
    (prompt,) = lm.calls[0].prompts
    assert lm.lm.vocabulary.codes(prompt.ids) == [1, 9] * 2  # half of five frames, down to a whole one
    assert measures["eval_duration_ratio"] == 1.0
    sizes = [(tmp_path / "step-0" / f"0-continuation{which}.wav").stat().st_size for which in ("", "-original")]
    assert sizes[0] == sizes[1]
    assert not counted  # a continuation has no transcript


def test_samples_have_the_sampling_and_bounds_of_the_tasks(lm, tmp_path):
    sampled(lm.lm, tmp_path, None, "se", "tts", "asr", "continuation")
    temperatures = {item_seed: call.sampling.temperature for call in lm.calls for item_seed in call.seeds}
    assert temperatures == {0: 0.6, 1: 0.8, 2: 0.0, 3: 0.8}
    (text_prompt,) = (p for call in lm.calls for p in call.prompts if p.phases[0].kind == "text")
    assert (text_prompt.phases[0].min_length, text_prompt.phases[0].max_length) == text_window(0.1) == (0, 23)


def test_default_sampling_follows_from_the_input():
    usual = {name: generation_defaults(template, code_bits=13) for name, template in TEMPLATES.items()}
    temperatures = {name: sampling.temperature for name, sampling in usual.items()}
    certain = {name for name, value in temperatures.items() if value == 0}
    assert certain == {"asr", "text", "pronounce", "tts-aligned", "zero-shot-aligned"}
    from_speech = {temperatures[name] for name in ("se", "se-features", "ss", "ss-features", "vc")}
    assert from_speech == {0.6}
    assert 0 < generation_defaults(TEMPLATES["tts-aligned"], code_bits=0).temperature < 0.6 < temperatures["tts"]
    bitwise = {name for name, sampling in usual.items() if sampling.bitwise}
    assert bitwise == {"se", "se-features", "ss", "ss-features", "vc", "tts-aligned", "zero-shot-aligned"}
    assert not any(generation_defaults(template, code_bits=0).bitwise for template in TEMPLATES.values())


def test_recognition_has_the_same_bound(speech_lm_for_asr):
    lm, calls = speech_lm_for_asr
    transcribe(np.zeros(1600, np.float32), lm, sampling_rate=16000)
    ids = len(lm.vocabulary.codes(calls[0].prompts[0].ids))
    phase = calls[0].prompts[0].phases[0]
    assert (phase.min_length, phase.max_length) == text_window(ids / lm.audio_tokenizer.tokens_per_second)


@pytest.fixture
def speech_lm_for_asr(monkeypatch, codec):
    lm = SpeechLM.from_config("tiny", AudioTokenizer(codec("mel")))
    lm.info = replace(lm.info, templates=(TEMPLATES["asr"],))
    calls = []

    def generate(prompts, sampling=None, seed=0):
        calls.append(SimpleNamespace(prompts=prompts, sampling=sampling))
        return [Generation((torch.zeros(0, dtype=torch.long),), "end") for _ in prompts]

    monkeypatch.setattr(lm, "generate", generate)
    return lm, calls


def test_spans_become_files(lm, tmp_path):
    tokenizer = lm.lm.audio_tokenizer
    one, two = [1, 9], [1, 9, 2, 9]
    assert {path.name: len(wave) for path, wave in write_spans(tokenizer, [one], tmp_path / "a.b" / "x").items()} == {
        "x.wav": 320
    }
    assert {path.name: len(wave) for path, wave in write_spans(tokenizer, [one, two], tmp_path / "y").items()} == {
        "y-1.wav": 320,
        "y-2.wav": 640,
    }
    assert write_spans(tokenizer, [], tmp_path / "z") == {}
