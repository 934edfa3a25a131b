"""One loader turns YAML into the configuration dataclasses of the package."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from focallm.tokenizer.configs import load_config


@dataclass(frozen=True)
class Adapter:
    rank: int
    targets: str | list[str] = "all"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, found {self.rank}")


@dataclass(frozen=True)
class Config:
    kind: Literal["small", "large"]
    rate: float = 1e-3
    steps: int = 10
    packing: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    parts: tuple[str, ...] = ()
    store: Path | None = None
    adapter: Adapter | None = None
    extra: tuple[Adapter, ...] = ()
    size: str | dict[str, int] | None = None
    model: dict[str, Any] = field(default_factory=dict)


def test_a_full_file_becomes_the_dataclass(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "kind: large\nrate: 1\nbetas: [0.8, 1]\nparts: [encoder]\nstore: data/x\nadapter: {rank: 4, targets: [a]}\n"
        "extra: [{rank: 1}, {rank: 2}]\nsize: {pieces: 8}\nmodel: {dims: [1, 2]}\n"
    )
    config = load_config(Config, path)
    assert config == Config(
        kind="large",
        rate=1,
        betas=(0.8, 1),
        parts=("encoder",),
        store=Path("data/x"),
        adapter=Adapter(4, ["a"]),
        extra=(Adapter(1), Adapter(2)),
        size={"pieces": 8},
        model={"dims": [1, 2]},
    )
    # Recorded settings are compared as JSON, so an integer must not turn into 1.0.
    assert type(config.rate) is int


def test_mappings_and_empty_files_work(tmp_path):
    assert load_config(Config, {"kind": "small"}) == Config("small")
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"a\.yaml: missing keys \['kind'\]"):
        load_config(Config, path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kidn": "small"}, "unknown keys ['kidn']; known keys: kind, rate,"),
        ({}, "missing keys ['kind']"),
        ({"kind": "huge"}, "kind: expected one of 'small', 'large', found 'huge'"),
        ({"kind": "small", "rate": "fast"}, "rate: expected a number, found 'fast'"),
        ({"kind": "small", "rate": True}, "rate: expected a number, found True"),
        ({"kind": "small", "steps": 1.0}, "steps: expected an integer, found 1.0"),
        ({"kind": "small", "steps": False}, "steps: expected an integer, found False"),
        ({"kind": "small", "packing": 1}, "packing: expected true or false, found 1"),
        ({"kind": "small", "betas": [0.9]}, "betas: expected a list of 2, found [0.9]"),
        ({"kind": "small", "betas": [0.9, "x"]}, "betas[1]: expected a number, found 'x'"),
        ({"kind": "small", "parts": "encoder"}, "parts: expected a list, found 'encoder'"),
        ({"kind": "small", "store": 3}, "store: expected a path or null, found 3"),
        ({"kind": "small", "size": {"pieces": "x"}}, "size: expected a string or a mapping or null, found"),
        ({"kind": "small", "adapter": 3}, "adapter: expected a mapping or null, found 3"),
        ({"kind": "small", "adapter": {"rnak": 3}}, "adapter: unknown keys ['rnak']; known keys: rank, targets"),
        ({"kind": "small", "adapter": {"rank": 0}}, "adapter: rank must be at least 1, found 0"),
        ({"kind": "small", "extra": [{"rank": 1}, {}]}, "extra[1]: missing keys ['rank']"),
        ({"kind": "small", "extra": {"rank": 1}}, "extra: expected a list, found {'rank': 1}"),
        ({"kind": "small", "model": [1]}, "model: expected a mapping, found [1]"),
        ({"kind": "small", "model": {1: 2}}, "the key 1 of model: expected a string, found 1"),
    ],
)
def test_mistakes_are_reported_with_their_keys(values, message):
    with pytest.raises(ValueError, match=re.escape(f"config: {message}")):
        load_config(Config, values)


def test_all_mistakes_are_in_one_message():
    with pytest.raises(ValueError, match=r"^recipe: unknown keys \['stesp'\]") as caught:
        load_config(Config, {"stesp": 1, "rate": "x", "adapter": {"rank": "y"}}, "recipe")
    for part in ("missing keys ['kind']", "rate: expected a number", "adapter.rank: expected an integer"):
        assert part in str(caught.value)


def test_a_list_is_not_a_config(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"a\.yaml: expected a mapping with keys of kind, rate"):
        load_config(Config, path)
