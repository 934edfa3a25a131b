"""Recipes of several stages: what they name, what they refuse, and which stage is found where."""

from pathlib import Path

import pytest
import torch
import yaml

from focallm.tokenizer.training import read_stages, result_folder
from focallm.tokenizer.training.discriminators import Discriminators

TINY = Path(__file__).parents[1] / "fixtures" / "codec_chain.yaml"
RUN = Path("runs/tiny")


def test_later_stages_build_on_what_earlier_ones_leave():
    stages = read_stages(TINY, RUN)
    assert list(stages) == [RUN / name for name in ("teacher", "quantizer", "decoder", "adversarial")]
    assert stages[RUN / "quantizer"].teacher == "runs/tiny/teacher/teacher"
    quantizer, decoder = "runs/tiny/quantizer/model", "runs/tiny/decoder/model"
    parts = {"compressor": quantizer, "decompressor": quantizer, "decoder": decoder}
    assert stages[RUN / "adversarial"].parts_from == parts
    assert stages[RUN / "adversarial"].adversary_from == "runs/tiny/decoder"
    results = [result_folder(folder, recipe).name for folder, recipe in stages.items()]
    assert results == ["teacher", "model", "model", "model"]


def test_a_file_of_one_recipe_is_trained_in_the_run_itself(tmp_path):
    (tmp_path / "one.yaml").write_text("stage: teacher\nseconds: 0\n")
    assert list(read_stages(tmp_path / "one.yaml", RUN)) == [RUN]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": {}}, "names at least one"),
        ({"stages": {"a": {"stage": "teacher", "seconds": 0}}, "steps": 3}, "no other key"),
        ({"stages": {"a": 3}}, r"stages\.a must be a recipe, found 3"),
        ({"stages": {"a": {"stage": "teacher", "seconds": 0, "step": 3}}}, r"stages\.a: unknown keys \['step'\]"),
        ({"stages": {"a": {"steps": 3}}}, r"stages\.a: stage is missing"),
    ],
)
def test_mistakes_name_the_stage(values, message, tmp_path):
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        read_stages(tmp_path / "chain.yaml", RUN)


def test_discriminators_of_resolutions_see_what_those_of_periods_do_not():
    torch.manual_seed(0)
    noise = torch.randn(1, 4096)
    smooth = torch.nn.functional.avg_pool1d(noise[:, None], 5, 1, 2)[:, 0]
    discriminators = Discriminators(0.05, periods=(2,), scales=0, resolutions=2)
    scores, activations = discriminators(torch.cat([noise, smooth]).requires_grad_())
    assert len(scores) == 3
    assert [len(own) for own in activations] == [5, 4, 4]
    assert scores[1].shape[0] == 2
    assert not torch.allclose(scores[1][0], scores[1][1], atol=1e-3)
    sum(score.mean() for score in scores).backward()
    assert all(p.grad is not None for p in discriminators.parameters())
