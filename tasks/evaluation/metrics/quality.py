"""Speech quality without a reference: DNSMOS and UTMOS. B batch, T samples."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .metric import RATE, EvalSample, Metric, Scores, device, run_by_length, version

PUBLISHED_UTMOS = "tarepan/SpeechMOS:v1.2.0"


class DNSMOS(Metric):
    """DNSMOS P.835 and P.808 (Reddy et al., 2022, arXiv 2110.01763): mean opinion scores, 1 to 5.

    Measures `quality` (overall), `signal` and `background` of P.835, and `p808`, the DNSMOS of the FocalCodec paper.
    Windows last 9.01 s with a hop of 1 s; shorter samples are repeated.

    Args:
        limit: Measure only the first `limit` items; DNSMOS is slower than all other metrics together.
    """

    name = "dnsmos"

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit

    @property
    def checkpoint(self) -> str:
        """Models and the package that contains them."""
        return f"DNSMOS P.835 sig_bak_ovr and P.808 model_v8, {version('speechmos')}"

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the four scores.

        Raises:
            ImportError: speechmos is not installed.
        """
        try:
            from speechmos import dnsmos
        except ImportError:
            raise ImportError("DNSMOS needs speechmos: pip install 'focallm[eval]'") from None
        scores: list[Scores] = []
        for sample in samples:
            # Loud resampled audio may exceed 1, which speechmos rejects.
            measured = dnsmos.run(sample.at(RATE).clip(-1, 1), sr=RATE)
            scores.append(
                {
                    "quality": float(measured["ovrl_mos"]),
                    "signal": float(measured["sig_mos"]),
                    "background": float(measured["bak_mos"]),
                    "p808": float(measured["p808_mos"]),
                }
            )
        return scores


class UTMOS(Metric):
    """UTMOS22 strong (Saeki et al., 2022, arXiv 2204.02152): `utmos`, a mean opinion score, 1 to 5.

    Args:
        source: Repository for torch.hub, or the folder of a checkout of it; with a checkout, torch.hub takes the
            weights from $TORCH_HOME/hub/checkpoints if they are there. None skips UTMOS and says so in the record.
    """

    name = "utmos"

    def __init__(self, source: str | None = PUBLISHED_UTMOS) -> None:
        self.source = source

    @property
    def checkpoint(self) -> str:
        """The repository, or a note that UTMOS was not measured."""
        if self.source is None:
            return "not measured (no weights without a network)"
        return f"utmos22_strong of {self.source}"

    def accepts(self, sample: EvalSample) -> bool:
        """Accept every sample if there is a model."""
        return self.source is not None and super().accepts(sample)

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the score.

        Raises:
            ImportError: torchaudio, which the published model needs, is not installed.
        """
        waves = [sample.at(RATE) for sample in samples]
        scores = run_by_length(lambda batch: self._model(batch, RATE), waves)
        return [{"utmos": float(score)} for score in scores]

    @cached_property
    def _model(self) -> Any:
        """The model: (B, T) and the rate -> (B,)."""
        location = "local" if Path(str(self.source)).is_dir() else "github"
        try:
            with _without_speechmos():
                model = torch.hub.load(self.source, "utmos22_strong", source=location, trust_repo=True)
        except (RuntimeError, ImportError) as error:
            # torch.hub raises a RuntimeError of its own for missing dependencies.
            if "torchaudio" not in str(error):
                raise
            raise ImportError("the published UTMOS needs torchaudio: pip install torchaudio") from None
        return model.eval().to(device())


@contextmanager
def _without_speechmos() -> Iterator[None]:
    """Hide the PyPI package `speechmos` (DNSMOS), because the UTMOS repository has a package of the same name."""

    def pop_modules() -> dict[str, Any]:
        modules = {}
        for name in list(sys.modules):
            if name.partition(".")[0] == "speechmos":
                modules[name] = sys.modules.pop(name)
        return modules

    hidden = pop_modules()
    try:
        yield
    finally:
        pop_modules()
        sys.modules.update(hidden)
