import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

from focallm.lm import LengthWindow, SpeechLM, Vocabulary
from focallm.lm.processor import SpeechLMProcessor
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer

TASKS = ("tts", "zero-shot", "se", "vc", "continuation")
SECOND = np.sin(np.arange(16000) / 20).astype(np.float32)


@pytest.fixture(scope="module")
def audio_tokenizer(codec) -> AudioTokenizer:
    return AudioTokenizer(codec("tiny_50hz"))


def make_lm(audio_tokenizer, tasks=TASKS, **kwargs) -> SpeechLM:
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters(["ann bob"], audio_tokenizer.codebook_sizes)
    lm = SpeechLM.from_config("tiny", audio_tokenizer, vocabulary, **kwargs)
    lm.info = dataclasses.replace(
        lm.info,
        templates=tuple(TEMPLATES[task] for task in tasks),
        length_window=LengthWindow(0.1, 0.1),
        voices=("ann", "bob"),
    )
    return lm


@pytest.fixture(scope="module")
def lm(audio_tokenizer) -> SpeechLM:
    return make_lm(audio_tokenizer)


@pytest.fixture(scope="module")
def folder(lm, tmp_path_factory):
    """A folder that was moved after it was saved."""
    root = tmp_path_factory.mktemp("lm")
    lm.save_pretrained(root / "before")
    (root / "before").rename(root / "after")
    return root / "after"


@pytest.fixture(scope="module")
def processor(folder) -> SpeechLMProcessor:
    return AutoProcessor.from_pretrained(folder)


def spelled(processor, ids) -> str:
    return processor.tokenizer.decode(ids)


def test_the_auto_classes_open_the_folder(folder, processor, lm):
    assert isinstance(processor, SpeechLMProcessor)
    assert processor.info == lm.info
    assert processor.feature_extractor.sampling_rate == 16000
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == lm.vocabulary.tokenizer.get_vocab()
    assert AutoFeatureExtractor.from_pretrained(folder).sampling_rate == 16000


def test_no_path_of_the_machine_is_written(folder):
    for name in ("processor_config.json", "tokenizer_config.json", "generation_config.json", "speech_lm.json"):
        assert str(folder.parent) not in (folder / name).read_text()


def test_the_codec_is_loaded_once_on_first_use(folder, monkeypatch):
    loaded = []
    load = AudioTokenizer.from_pretrained
    monkeypatch.setattr(AudioTokenizer, "from_pretrained", lambda source: loaded.append(source) or load(source))
    processor = AutoProcessor.from_pretrained(folder)
    processor("hi")
    repr(processor)
    assert not loaded
    processor.decode(processor.vocabulary.audio_ids([1, 2]))
    processor.decode(processor.vocabulary.audio_ids([3]))
    assert loaded == [folder / "audio_tokenizer"]


def test_a_folder_is_found_from_any_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    processor = AutoProcessor.from_pretrained(folder.name)
    assert len(processor.decode(processor.vocabulary.audio_ids([1, 2]))) == 640


def test_a_codec_in_the_package_is_named_not_copied(lm, tmp_path):
    named = SpeechLM(lm.model, lm.vocabulary, lm.audio_tokenizer, dataclasses.replace(lm.info, audio_tokenizer="mini"))
    named.save_pretrained(tmp_path)
    assert not (tmp_path / "audio_tokenizer").exists()
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.audio_tokenizer.codebook_size == 8192


def test_a_processor_saves_what_it_opened(processor, lm, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert torch.equal(again.decode(lm.vocabulary.audio_ids([5, 6])), processor.decode(lm.vocabulary.audio_ids([5, 6])))


def test_text_is_spoken_by_the_first_voice(processor):
    inputs = processor("Hi <|end|>", return_tensors="pt")
    assert inputs["input_ids"].shape == (1, inputs["attention_mask"].sum())
    assert spelled(processor, inputs["input_ids"][0]).startswith("<|voice|>ann<|text|>hi")
    assert processor.vocabulary.control("end") not in inputs["input_ids"]
    assert "<|voice|>bob" in spelled(processor, processor("hi", voice="bob")["input_ids"][0])


def test_a_batch_is_padded_on_the_left_and_equals_single_items(processor):
    texts = ["hello there", "hi", "a"]
    batch = processor(texts, voice=["ann", "bob", "ann"], return_tensors="pt")
    for i, (text, voice) in enumerate(zip(texts, ["ann", "bob", "ann"], strict=True)):
        kept = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][kept].tolist() == processor(text, voice=voice)["input_ids"][0]
        assert not kept[: -int(kept.sum())].any()
    assert (batch["input_ids"][~batch["attention_mask"].bool()] == processor.vocabulary.control("pad")).all()


def test_the_inputs_choose_the_task(processor, audio_tokenizer):
    codes = processor.vocabulary.audio_ids(audio_tokenizer(SECOND)["input_ids"][0])
    control = processor.vocabulary.control

    def ids(**inputs):
        return processor(**inputs)["input_ids"][0]

    assert ids(audio=SECOND) == [control("noisy"), *codes, control("speech")]
    both = {"audio": SECOND, "reference": SECOND[:8000]}
    assert ids(**both)[: len(codes) + 2] == [control("source"), *codes, control("reference")]
    assert ids(text="hi", reference=SECOND, reference_text="abc")[:4] == [
        control("reference"),
        *processor.vocabulary.text_ids("abc"),
    ]
    assert ids(audio=SECOND, task="continuation") == [control("speech"), *codes]
    half = SECOND[::2]
    assert len(ids(audio=[half], sampling_rate=8000)) == len(codes) + 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "reads exactly nothing"),
        ({"text": "a", "audio": SECOND}, "reads exactly audio, text: tts reads voice, text; "),
        (
            {"text": "a", "audio": SECOND},
            r"functions: focallm.speak\(text, model=lm\), ",
        ),
        ({"text": "a", "task": "se"}, "se reads exactly text"),
        ({"text": "a", "task": "asr"}, "not for asr"),
        ({"text": "a", "voice": "eve"}, "no voice is called 'eve': this model knows ann, bob"),
        ({"text": ["a", "b"], "voice": ["ann", "bob", "ann"]}, "equally long"),
    ],
)
def test_inputs_that_no_task_reads_are_an_error(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_features_of_a_batch_follow_each_other(audio_tokenizer):
    lm = make_lm(audio_tokenizer, ("se-features",), feature_size=audio_tokenizer.codec.feature_dim)
    inputs = SpeechLMProcessor.from_lm(lm)(audio=[SECOND, SECOND[:8000]], return_tensors="pt")
    num_placeholders = (inputs["input_ids"] == lm.vocabulary.control("feature")).sum(1)
    expected = audio_tokenizer.codec.extract_features(torch.from_numpy(SECOND)[None])[0]
    assert num_placeholders[0] == len(expected)
    assert torch.allclose(inputs["features"][: len(expected)], expected)
    assert inputs["features"].shape == (num_placeholders.sum(), lm.model.config.feature_size)
    alone = SpeechLMProcessor.from_lm(lm)(audio=SECOND[:8000], return_tensors="pt")
    with torch.no_grad():
        batched, single = lm.model(**inputs).logits[1, -1], lm.model(**alone).logits[0, -1]
    assert torch.allclose(batched, single, atol=1e-4)


def test_decoding_leaves_out_ids_that_are_not_audio(processor, audio_tokenizer):
    vocabulary = processor.vocabulary
    codes = vocabulary.audio_ids([1, 2, 3])
    expected = torch.from_numpy(audio_tokenizer.decode([1, 2, 3]))
    noisy = [vocabulary.control("text"), *vocabulary.text_ids("ab"), *codes, vocabulary.control("end")]
    assert torch.equal(processor.decode(codes), expected)
    assert torch.equal(processor.decode(torch.tensor(noisy)), expected)
    prompt = [vocabulary.control("noisy"), *vocabulary.audio_ids([7, 7]), vocabulary.control("speech")]
    assert torch.equal(processor.decode([*prompt, *codes, vocabulary.control("end")]), expected)
    batch = processor.decode([noisy, codes[:1], []])
    assert [len(audio) for audio in batch] == [960, 320, 0]
    assert torch.allclose(batch[0], expected, atol=1e-5)
    assert not batch[0].requires_grad
    assert [len(audio) for audio in processor.batch_decode(torch.tensor([codes, codes]))] == [960, 960]


@pytest.mark.parametrize("nothing", [[], [0], torch.empty(0, dtype=torch.long)])
def test_no_audio_ids_give_no_samples(processor, nothing):
    assert processor.decode(nothing).shape == (0,)


def test_codes_in_the_place_of_another_codebook_are_left_out():
    vocabulary = Vocabulary.characters(["a"], (4, 4))
    processor = SpeechLMProcessor(AudioTokenizer.from_pretrained().feature_extractor, vocabulary.tokenizer, (4, 4))
    ids = vocabulary.audio_ids([5, 0, 1, 6, 3, 7, 2])
    assert processor._codes(ids) == [0, 6, 3, 7]


@pytest.mark.parametrize("texts", ["hello", ["hello there", "hi"]], ids=["str", "list"])
def test_a_plain_pipeline_speaks(folder, texts):
    speak = pipeline("text-to-speech", model=str(folder))
    results = speak(texts, generate_kwargs={"max_new_tokens": 12, "min_new_tokens": 4})
    for result in results if isinstance(texts, list) else [results]:
        assert result["sampling_rate"] == 16000
        assert 4 * 320 <= len(result["audio"]) <= 12 * 320
        assert np.isfinite(result["audio"]).all()


def test_a_batched_pipeline_equals_single_calls(folder):
    speak = pipeline("text-to-speech", model=str(folder))
    options = {"generate_kwargs": {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False}}
    texts = ["hello there", "hi"]
    for text, found in zip(texts, speak(texts, batch_size=2, **options), strict=True):
        np.testing.assert_allclose(found["audio"], speak(text, **options)["audio"], atol=1e-4)


def test_plain_generate_cannot_leave_speech(folder, processor):
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.generation_config
    assert config.max_new_tokens == 30 * 50
    torch.manual_seed(0)
    ids = model.generate(**processor(["hi", "a longer text"], return_tensors="pt"), max_new_tokens=40)
    length = processor("a longer text", return_tensors="pt")["input_ids"].shape[1]
    allowed = {*processor.vocabulary.audio_range, processor.vocabulary.control("end"), config.pad_token_id}
    assert set(ids[:, length:].flatten().tolist()) <= allowed


def test_the_saved_generation_config_does_not_limit_our_generation(folder, audio_tokenizer, tmp_path):
    assert SpeechLM.from_pretrained(folder).model.generation_config.suppress_tokens is None
    make_lm(audio_tokenizer, ("asr",)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()).get("suppress_tokens") is None


FEATURES = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "focallm":
            raise ModuleNotFoundError("No module named 'focallm'")

sys.meta_path.insert(0, Missing())
sys.modules["peft"] = None
import torch
from transformers import AutoModelForCausalLM, AutoProcessor
torch.set_num_threads(1)
inputs = torch.load({inputs!r}, weights_only=True)
model = AutoModelForCausalLM.from_pretrained({folder!r}, trust_remote_code=True)
torch.save(model(**inputs).logits, {inputs!r} + ".logits")
try:
    AutoProcessor.from_pretrained({folder!r}, trust_remote_code=True)
except ImportError as error:
    assert "pip install focallm" in str(error)
else:
    raise AssertionError("this processor is not ours")
"""


def run_python(code: str, modules: object) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(modules), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_model_of_features_opens_without_this_package(audio_tokenizer, tmp_path):
    lm = make_lm(audio_tokenizer, ("se-features",), feature_size=audio_tokenizer.codec.feature_dim)
    lm.save_pretrained(tmp_path / "lm")
    inputs = SpeechLMProcessor.from_lm(lm)(audio=SECOND[:4000], return_tensors="pt")
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    run_python(FEATURES.format(folder=str(tmp_path / "lm"), inputs=str(tmp_path / "inputs.pt")), tmp_path)
    logits = torch.load(tmp_path / "inputs.pt.logits")
    with torch.no_grad():
        assert torch.allclose(logits, lm.model(**inputs).logits, atol=1e-5)
    speaks = pipeline("text-to-speech", model=str(tmp_path / "lm"))
    with pytest.raises(ValueError, match=r"Its tasks have functions: focallm\.enhance\(audio, model=lm\)"):
        speaks("hi")


def test_the_folder_opens_without_our_code_and_a_pipeline_finds_the_processor_in_the_package(folder, tmp_path):
    code = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder = {str(folder)!r}
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer("<|text|>hi<|speech|>", return_tensors="pt")
out = model.generate(**ids, max_new_tokens=5)[0, ids["input_ids"].shape[1]:]
assert "<|audio_" in tokenizer.decode(out, skip_special_tokens=True)
assert not [name for name in sys.modules if name.startswith("focallm")]
speak = pipeline("text-to-speech", model=folder, trust_remote_code=True)
assert len(speak("hi", generate_kwargs=dict(max_new_tokens=4, min_new_tokens=4))["audio"]) == 4 * 320
"""
    run_python(code, tmp_path)


def test_a_processor_from_the_hub_fetches_the_codec_of_the_same_revision(folder, processor, monkeypatch):
    fetched = {}

    def fetch(repo, allow_patterns, **kwargs):
        fetched.update(repo=repo, patterns=allow_patterns, **kwargs)
        return str(folder)

    monkeypatch.setattr("focallm.tokenizer.hub.snapshot_download", fetch)
    distant = SpeechLMProcessor(processor.feature_extractor, processor.tokenizer, (8192,), processor.info)
    monkeypatch.setattr("focallm.tokenizer.hub._hub_answers", lambda minute: True)
    distant._source = ("owner/name", {"revision": "abc"})
    assert distant.audio_tokenizer.codebook_size == 8192
    assert fetched == {"repo": "owner/name", "patterns": ["audio_tokenizer/*"], "revision": "abc"}
