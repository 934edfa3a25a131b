"""Speech quality without a reference: DNSMOS and UTMOS. B batch, T samples."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .metric import RATE, EvalSample, Metric, Scores, by_length, device, version

# What speechmos calls them -> key of a line.
_KEYS = {"ovrl_mos": "quality", "sig_mos": "signal", "bak_mos": "background", "p808_mos": "p808"}


class DNSMOS(Metric):
    """Mean opinion scores, 1 to 5: `quality` (overall), `signal` and `background` of P.835, and `p808`.

    Windows of 9.01 s with a hop of 1 s; shorter sounds are repeated. The paper's DNSMOS is P.808.

    Args:
        limit: as in `Metric`; it takes longer than everything else together.
    """

    name = "dnsmos"

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit

    @property
    def checkpoint(self) -> str:
        """The package that the models come with."""
        return f"DNSMOS P.835 sig_bak_ovr and P.808 model_v8, {version('speechmos')}"

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The four scores of each.

        Raises:
            ImportError: the extra is not installed.
        """
        try:
            from speechmos import dnsmos
        except ImportError:
            raise ImportError("DNSMOS needs speechmos: pip install 'focallm[eval]'") from None
        found = [dnsmos.run(sound.at(RATE).clip(-1, 1), sr=RATE) for sound in sounds]
        return [{key: float(scores[theirs]) for theirs, key in _KEYS.items()} for scores in found]


PUBLISHED_UTMOS = "tarepan/SpeechMOS:v1.2.0"


class UTMOS(Metric):
    """A mean opinion score, 1 to 5: `utmos`, by the strong learner of UTMOS22.

    Args:
        source: a repository for torch.hub, or the folder of a checkout of it (its weights are then those in
            $TORCH_HOME/hub/checkpoints, if they are there). None: nobody judges, and the record says so.
    """

    name = "utmos"

    def __init__(self, source: str | None = PUBLISHED_UTMOS) -> None:
        self.source = source

    @property
    def checkpoint(self) -> str:
        """The repository, if there is one."""
        return f"utmos22_strong of {self.source}" if self.source else "nobody (no weights without a network)"

    def fits(self, sound: EvalSample) -> bool:
        """Every sound, if there is a model."""
        return self.source is not None and super().fits(sound)

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The score of each."""
        scores = by_length(lambda waves: self._model(waves, RATE), [sound.at(RATE) for sound in sounds])
        return [{"utmos": float(score)} for score in scores]

    @cached_property
    def _model(self) -> Any:
        """(B, T), rate -> (B,)"""
        where = "local" if Path(str(self.source)).is_dir() else "github"
        try:
            with _without_speechmos():
                model = torch.hub.load(self.source, "utmos22_strong", source=where, trust_repo=True)
        except (RuntimeError, ImportError) as error:  # torch.hub has an error of its own for what is missing
            if "torchaudio" not in str(error):
                raise
            raise ImportError("the published UTMOS needs torchaudio: pip install torchaudio") from None
        return model.eval().to(device())


@contextmanager
def _without_speechmos() -> Iterator[None]:
    """The repository has a package `speechmos`, and so has PyPI (DNSMOS): neither is to be taken for the other."""

    def take() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "speechmos"}

    others = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(others)
