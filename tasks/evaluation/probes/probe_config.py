"""How a probe learns, and what it is tested on: one frozen dataclass, read from YAML."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....tokenizer.files import read_yaml

INPUTS = ("codes", "features")

# Rows that are not learnt from: a share of every class (0.1), a further token store ("test_clean/"), or the rows whose
# columns have these values ({"session": 5, "gender": "M"}).
Split = float | str | dict[str, Any]


@dataclass(frozen=True)
class ProbeConfig:
    """The defaults are those of the paper's downstream recipes (github.com/lucadellalib/audiocodecs)."""

    input: str = "codes"  # what the probe reads: one of `INPUTS`
    validation: Split = 0.1  # decides about the learning rate and which epoch's weights are tested
    test: Split = 0.1

    hidden_size: int = 512  # of each direction of the LSTM
    num_layers: int = 2
    dropout: float = 0.1  # between the layers
    epochs: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 0.01
    decay: float = 0.9  # NewBob: the learning rate's factor where the validation loss hardly improves ...
    patience: int = 1  # ... for the second time
    seed: int = 0

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise ValueError(f"input must be one of {INPUTS}, found {self.input!r}")
        for name in ("validation", "test"):
            split = getattr(self, name)
            if not isinstance(split, str | dict) and not (isinstance(split, float) and 0 < split < 1):
                raise ValueError(
                    f"{name} is a share between 0 and 1, a token store, or columns with their values, found {split!r}"
                )
        shares = [split for split in (self.validation, self.test) if isinstance(split, float)]
        if sum(shares) >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave nothing to learn from")
        if min(self.hidden_size, self.num_layers, self.epochs, self.batch_size) < 1:
            raise ValueError("hidden_size, num_layers, epochs and batch_size must be at least 1")


def read_recipe(path: Path) -> ProbeConfig:
    """Read a YAML recipe.

    Raises:
        ValueError: an unknown key (named, with the known ones), a value of another type, or a contradiction.
    """
    values = read_yaml(path) or {}
    fields = {f.name: f.default for f in dataclasses.fields(ProbeConfig)}
    if not isinstance(values, dict) or set(values) - set(fields):
        raise ValueError(f"{path}: a probe's recipe is a mapping with the keys {list(fields)}, found {values!r}")
    numbers = {name for name, default in fields.items() if isinstance(default, int | float)} - {"validation", "test"}
    for name in sorted(numbers & set(values)):
        if not isinstance(values[name], int if isinstance(fields[name], int) else int | float):
            raise ValueError(f"{path}: {name} must be a number as {fields[name]}, found {values[name]!r}")
    try:
        return ProbeConfig(**{**values, "betas": tuple(values.get("betas", fields["betas"]))})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
