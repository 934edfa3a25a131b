"""Learning rate schedules and averaged weights of codec training."""

import pytest
import torch

from focallm.tokenizer.training.config import TeacherStageConfig
from focallm.tokenizer.training.optimization import NewBob, Schedule, WeightAverage


def schedule(name: str, **values) -> Schedule:
    config = TeacherStageConfig(schedule=name, learning_rate=1.0, steps=100, **{"warmup_steps": 1, **values})
    return Schedule(config, steps_per_epoch=10)


def test_cosine_warms_up_and_falls_to_a_twentieth():
    s = schedule("cosine", warmup_steps=10)
    assert s.rate(0) == pytest.approx(0.1)
    assert s.rate(10) > 0.95
    assert s.rate(100) == pytest.approx(0.05)


def test_exponential_falls_once_per_epoch():
    s = schedule("exponential", decay=0.5)
    assert [s.rate(step) for step in (0, 9, 10, 29)] == [1, 1, 0.5, 0.25]


def test_newbob_lowers_the_rate_when_the_loss_hardly_improves():
    s = schedule("newbob", decay=0.9)
    rates = []
    for loss in (1.0, 0.9, 0.899, 0.95, 0.9, -1.0, -1.001, -1.1):
        s.observe(loss)
        rates.append(round(s.rate(50), 4))
    assert rates == [1.0, 1.0, 0.9, 0.81, 0.81, 0.81, 0.729, 0.729]
    again = schedule("newbob", decay=0.9)
    again.load_state_dict(s.state_dict())
    assert again.rate(50) == s.rate(50)
    again.observe(-1.1)
    assert again.rate(50) == pytest.approx(0.9**4)


def test_newbob_has_patience():
    newbob, factors = NewBob(0.5, patience=1), []
    for loss in (1.0, 1.0, 1.0, 0.5, 0.5, 0.4, 0.4):
        newbob.observe(loss)
        factors.append(newbob.factor)
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_the_average_follows_the_weights_and_restores_them():
    weight = torch.nn.Parameter(torch.zeros(2))
    average = WeightAverage({"w": weight}, decay=0.5)
    for step in range(100, 103):
        with torch.no_grad():
            weight.fill_(1.0)
        average.update(step)
    with average.applied():
        assert weight.tolist() == [0.875, 0.875]
    assert weight.tolist() == [1.0, 1.0]
