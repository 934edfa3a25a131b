import pytest
import torch

from focallm.lm import Vocabulary
from focallm.lm.templates import IGNORED, Phase, Segment, Template
from focallm.tasks.definitions import TEMPLATES


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(["Hello, Ann"], 32)


ROW = {
    "speaker": "ann",
    "text": "Hello",
    "codes": [3, 1, 2],
    "reference_text": "an",
    "reference_codes": [9, 9],
    "noisy_codes": [4, 5, 6],
    "noisy_features": torch.arange(6.0).reshape(3, 2),
    "mixture_codes": [7, 7, 7],
    "mixture_features": torch.ones(3, 2),
    "source_codes": [8, 8, 8],
    "sources": [[3, 1, 2], [4, 4, 4], [5, 5, 5]],
    "phonemes": "Hello",
}
PLAIN = {name: template for name, template in TEMPLATES.items() if template.target.kind != "aligned"}


def target_labels(example):
    return [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label != IGNORED]


def test_labels_cover_only_the_target_and_its_end(vocabulary):
    for name, template in PLAIN.items():
        example = template.example(vocabulary, ROW)
        target = template.target
        expected = vocabulary.text_ids("Hello") if target.kind == "text" else vocabulary.audio_ids([3, 1, 2])
        assert target_labels(example)[: len(expected)] == expected, name
        assert target_labels(example)[-1] == vocabulary.control("end")
        assert all(label in (IGNORED, i) for i, label in zip(example["input_ids"], example["labels"], strict=True))
        assert example["labels"][0] == IGNORED


def test_the_prompt_is_the_start_of_the_example(vocabulary):
    for name, template in PLAIN.items():
        example = template.example(vocabulary, ROW)
        inputs = {segment.field: ROW[segment.field] for segment in template.segments if not segment.target}
        prompt = template.prompt(vocabulary, (1, 3), **inputs)
        assert example["input_ids"][: len(prompt.ids)] == prompt.ids, name
        assert prompt.ids[-1] == vocabulary.control(template.target.control)
        assert all(label == IGNORED for label in example["labels"][: len(prompt.ids)])
        assert example["labels"][len(prompt.ids)] != IGNORED


def test_streams_of_a_separation_are_concatenated(vocabulary):
    example = TEMPLATES["ss"].example(vocabulary, ROW)
    speaker, end = vocabulary.control("speaker"), vocabulary.control("end")
    a, b, c = (vocabulary.audio_ids(codes) for codes in ROW["sources"])
    assert target_labels(example) == [*a, speaker, *b, speaker, *c, end]
    prompt = TEMPLATES["ss"].prompt(vocabulary, (3, 3), streams=3, mixture_codes=[7, 7, 7])
    assert [phase.closing_id for phase in prompt.phases] == [speaker, speaker, end]


def test_each_feature_has_one_placeholder(vocabulary):
    example = TEMPLATES["se-features"].example(vocabulary, ROW)
    assert example["input_ids"].count(vocabulary.control("feature")) == len(example["features"]) == 3
    assert torch.equal(example["features"], ROW["noisy_features"])


def test_an_empty_example_keeps_target_and_controls(vocabulary):
    for name, template in PLAIN.items():
        full, empty = template.example(vocabulary, ROW), template.example(vocabulary, ROW, empty=True)
        assert target_labels(full) == target_labels(empty), name
        inputs = {segment.field: ROW[segment.field] for segment in template.segments if not segment.target}
        prompt = template.prompt(vocabulary, (1, 3), **inputs)
        assert empty["input_ids"][: len(prompt.unconditional)] == prompt.unconditional
        assert len(empty.get("features", [])) == 0


def test_a_target_can_have_a_prefix(vocabulary):
    prompt = TEMPLATES["continuation"].prompt(vocabulary, (1, 9), target_prefix=[3, 1])
    assert prompt.ids == [vocabulary.control("speech"), *vocabulary.audio_ids([3, 1])]


def test_a_missing_column_is_an_error(vocabulary):
    with pytest.raises(ValueError, match=r"needs 'text', found only .*'codes'"):
        TEMPLATES["tts"].example(vocabulary, {**ROW, "text": None})


def test_contradictions_in_a_template_are_refused():
    source, target = Segment("codes", "noisy", "noisy_codes"), Segment("codes", "speech", "codes", target=True)
    for segments in [(), (source,), (target, source), (target, target)]:
        with pytest.raises(ValueError, match="needs its last segment"):
            Template("x", segments)
    with pytest.raises(ValueError, match="read, never written"):
        Segment("features", "speech", "codes", target=True)
    with pytest.raises(ValueError, match="min_length <= max_length"):
        Phase("codes", 5, 4, 0)
