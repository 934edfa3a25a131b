"""How natural speech sounds, without a reference: UTMOS (Saeki et al., 2022, arXiv 2204.02152). B batch, T samples."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .metric import RATE, Metric, by_length, device
from .sample import Line, Sound

PUBLISHED = "tarepan/SpeechMOS:v1.2.0"


class UTMOS(Metric):
    """A mean opinion score, 1 to 5: `utmos`, by the strong learner of UTMOS22.

    Args:
        source: a repository for torch.hub, or the folder of a checkout of it (its weights are then those in
            $TORCH_HOME/hub/checkpoints, if they are there). None: nobody judges, and the record says so.
    """

    name = "utmos"

    def __init__(self, source: str | None = PUBLISHED) -> None:
        self.source = source

    @property
    def checkpoint(self) -> str:
        """The repository, if there is one."""
        return f"utmos22_strong of {self.source}" if self.source else "nobody (no weights without a network)"

    def fits(self, sound: Sound) -> bool:
        """Every sound, if there is a model."""
        return self.source is not None and super().fits(sound)

    def measure(self, sounds: Sequence[Sound]) -> list[Line]:
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
