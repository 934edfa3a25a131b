"""Recipes of codec training: the config of each stage, and stages that build on each other."""

from pathlib import Path

import pytest
import yaml

from focallm.tokenizer.training.config import load_stage, read_stages, result_folder

TINY = Path(__file__).parents[1] / "fixtures" / "codec_chain.yaml"
RUN = Path("runs/tiny")
WHOLE = {"clip_seconds": 0.0}


def test_later_stages_use_the_results_of_earlier_ones():
    stages = read_stages(TINY, RUN)
    assert list(stages) == [RUN / name for name in ("teacher", "quantizer", "decoder", "adversarial")]
    assert stages[RUN / "quantizer"].teacher.folder == "runs/tiny/teacher/teacher"
    quantizer, decoder = "runs/tiny/quantizer/model", "runs/tiny/decoder/model"
    parts = {"compressor": quantizer, "decompressor": quantizer, "decoder": decoder}
    assert stages[RUN / "adversarial"].parts_from == parts
    assert stages[RUN / "adversarial"].gan.start_from == "runs/tiny/decoder"
    results = [result_folder(folder, config).name for folder, config in stages.items()]
    assert results == ["teacher", "model", "model", "model"]


def test_a_target_may_be_an_earlier_stage(tmp_path):
    stages = {"a": {"stage": "joint"}, "b": {"stage": "position", "target": "a"}}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert read_stages(tmp_path / "chain.yaml", RUN)[RUN / "b"].target == "runs/tiny/a/model"


def test_a_single_stage_is_trained_in_the_folder_of_the_run(tmp_path):
    (tmp_path / "one.yaml").write_text("stage: teacher\n")
    assert list(read_stages(tmp_path / "one.yaml", RUN)) == [RUN]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": {}}, "names at least one"),
        ({"stages": {"a": {"stage": "teacher"}}, "steps": 3}, "no other key"),
        ({"stages": {"a": 3}}, r"stages\.a must be a mapping of settings, found 3"),
        ({"stages": {"a": {"stage": "teacher", "step": 3}}}, r"stages\.a: unknown keys \['step'\]"),
        ({"stages": {"a": {"steps": 3}}}, r"stages\.a: the key stage is missing"),
        ({"stages": {"a": {"stage": "decoder", "parts_from": 3}}}, r"stages\.a: parts_from: expected a mapping"),
        ({"stages": {"a": {"stage": "decoder", "teacher": "x"}}}, r"stages\.a: teacher: expected a mapping or null"),
    ],
)
def test_mistakes_name_the_stage(values, message, tmp_path):
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        read_stages(tmp_path / "chain.yaml", RUN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "vocoder"}, "stage must be one of"),
        ({"stage": "decoder", "learning_rat": 1}, r"unknown keys \['learning_rat'\]"),
        ({"stage": "decoder", "decoder_input": "mel"}, "decoder_input: expected one of 'encoder', 'decompressed'"),
        ({"stage": "quantizer", "decoder_input": "decompressed"}, r"unknown keys \['decoder_input'\]"),
        ({"stage": "decoder", "parts_from": {"vocoder": "x"}}, "the key 'vocoder' of parts_from: expected one of"),
        ({"stage": "joint", "trainable_parts": ["vocoder"]}, r"trainable_parts\[0\]: expected one of 'encoder'"),
        ({"stage": "decoder", "model": {"quantizer": {"codebook_size": 4}}}, "compressor.output_dim is 13"),
        ({"stage": "quantizer", "teacher": {"hidden_weight": 1.0}}, r"teacher: missing keys \['folder'\]"),
        ({"stage": "quantizer", "teacher": {"folder": "x"}}, "hidden_weight or posterior_weight must be above 0"),
        ({"stage": "decoder", "decoder_input": "target"}, 'decoder_input "target" and target, a codec, need each'),
        ({"stage": "decoder", "target": "x"}, "need each other; found decoder_input \"encoder\" and target 'x'"),
        ({"stage": "encoder"}, r"missing keys \['target'\]"),
        ({"stage": "quantizer", "gan": {"scales": 3}}, r"gan: unknown keys \['scales'\]"),
        ({"stage": "teacher", "model": {}}, r"unknown keys \['model'\]"),
        ({"stage": "teacher", "clip_seconds": 4.0}, r"unknown keys \['clip_seconds'\]"),
        ({"stage": "quantizer", "teacher_model": {}}, r"unknown keys \['teacher_model'\]"),
        (
            {"stage": "decoder", "clip_seconds": 1.0, "crop_seconds": 2.0},
            r"crop_seconds \(2.0\) is more than clip_seconds \(1.0",
        ),
        ({"stage": "decoder", **WHOLE}, r"\(clip_seconds: 0\) differ in length, so a decoder needs crop_seconds"),
        ({"stage": "joint", **WHOLE}, r"\(clip_seconds: 0\) differ in length, so a decoder needs crop_seconds"),
        ({"stage": "quantizer", "crop_seconds": 1.0}, r"unknown keys \['crop_seconds'\]"),
        ({"stage": "joint", "schedule": "linear"}, "schedule: expected one of 'cosine'"),
        ({"stage": "joint", "ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"stage": "joint", "decay": 0.0}, r"decay must be in \(0, 1\]"),
        ({"stage": "joint", "steps": 0}, "steps must be at least 1"),
        (
            {"stage": "decoder", "learning_rate": "fast", "steps": "many"},
            "steps: expected an integer, found 'many'; learning_rate: expected a number, found 'fast'",
        ),
    ],
)
def test_mistakes_are_refused_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        load_stage(values, "recipe.yaml")
