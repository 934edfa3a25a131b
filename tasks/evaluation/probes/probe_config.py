"""Configuration of a probe: its data splits, its size and its training."""

from dataclasses import dataclass
from typing import Any, Literal

# Which rows belong to a split: a share of each class (0.1), another token store ("test_clean/"), or the rows whose
# columns have these values ({"session": 5, "gender": "M"}). The remaining rows are for training.
SplitRule = float | str | dict[str, Any]


@dataclass(frozen=True)
class ProbeConfig:
    """Configuration of a probe; the defaults are the paper's (github.com/lucadellalib/audiocodecs)."""

    input: Literal["codes", "features"] = "codes"
    validation: SplitRule = 0.1  # for the learning rate schedule and the choice of the best epoch
    test: SplitRule = 0.1

    hidden_size: int = 512  # of each direction of the LSTM
    num_layers: int = 2
    dropout: float = 0.1  # between the layers
    epochs: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 0.01
    # NewBob: when the validation loss has stopped improving `patience` + 1 times, the learning rate is multiplied by
    # `decay`.
    decay: float = 0.9
    patience: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        total_share = 0.0
        for name in ("validation", "test"):
            rule = getattr(self, name)
            if isinstance(rule, str | dict):
                continue
            if not isinstance(rule, float) or not 0 < rule < 1:
                raise ValueError(
                    f"{name} must be a share between 0 and 1, the path of a token store, or a mapping from columns to "
                    f"values; found {rule!r}"
                )
            total_share += rule
        if total_share >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave no rows for training")
        if min(self.hidden_size, self.num_layers, self.epochs, self.batch_size) < 1:
            raise ValueError("hidden_size, num_layers, epochs and batch_size must be at least 1")
