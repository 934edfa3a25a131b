"""Speech quality without a reference: DNSMOS, UTMOS and DistillMOS. B batch, T samples."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .metric import RATE, EvalSample, Metric, Scores, device, has_sound, run_by_length, version

PUBLISHED_UTMOS = "tarepan/SpeechMOS:v1.2.0"

_LOWEST = 1.0  # the lowest opinion score
_SILENCE = f"silence scores {_LOWEST:.0f}"
_INSTALL_DISTILLMOS = "--no-deps distillmos xls-r-sqa"
_WAV2VEC_WINDOW = 400  # samples at 16 kHz that the model of UTMOS needs for one output


class _OpinionScore(Metric):
    """Mean opinion scores, 1 to 5, that a model predicts. Silence gets 1.

    Subclasses implement `predict`.
    """

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Predict the scores of samples with sound."""
        scores: list[Scores] = []
        index = []
        waves = []
        for i, sample in enumerate(samples):
            scores.append(dict.fromkeys(self.score_names, _LOWEST))
            wave = sample.at(RATE)
            if has_sound(wave):
                index.append(i)
                waves.append(wave)
        if waves:
            for i, predicted in zip(index, self.predict(waves), strict=True):
                scores[i] = predicted
        return scores

    def predict(self, waves: Sequence[np.ndarray]) -> list[Scores]:
        """Predict the scores of waves (T,) at `RATE`, which have sound."""
        raise NotImplementedError


class DNSMOS(_OpinionScore):
    """DNSMOS P.835 and P.808 (Reddy et al., 2022, arXiv 2110.01763): mean opinion scores, 1 to 5.

    Measures `quality` (overall), `signal` and `background` of P.835, and `p808`, the DNSMOS of the FocalCodec paper.
    Windows last 9.01 s with a hop of 1 s; shorter samples are repeated.

    Args:
        limit: Measure only the first `limit` items; DNSMOS is slower than all other metrics together.
    """

    name = "dnsmos"
    score_names = ("quality", "signal", "background", "p808")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit

    @property
    def checkpoint(self) -> str:
        """Models and the package that contains them."""
        return f"DNSMOS P.835 sig_bak_ovr and P.808 model_v8, {version('speechmos')}, {_SILENCE}"

    def load(self) -> None:
        """Check that the package is there.

        Raises:
            ImportError: speechmos is not installed.
        """
        try:
            from speechmos import dnsmos  # noqa: F401
        except ImportError:
            raise ImportError("DNSMOS needs speechmos: pip install 'focallm[eval]'") from None

    def predict(self, waves: Sequence[np.ndarray]) -> list[Scores]:
        """Predict the four scores."""
        from speechmos import dnsmos

        scores: list[Scores] = []
        for wave in waves:
            # Loud resampled audio may exceed 1, which speechmos rejects.
            measured = dnsmos.run(wave.clip(-1, 1), sr=RATE)
            scores.append(
                {
                    "quality": float(measured["ovrl_mos"]),
                    "signal": float(measured["sig_mos"]),
                    "background": float(measured["bak_mos"]),
                    "p808": float(measured["p808_mos"]),
                }
            )
        return scores


class UTMOS(_OpinionScore):
    """UTMOS22 strong (Saeki et al., 2022, arXiv 2204.02152): `utmos`, a mean opinion score, 1 to 5.

    Args:
        source: Repository for torch.hub, or the folder of a checkout of it; with a checkout, torch.hub takes the
            weights from $TORCH_HOME/hub/checkpoints if they are there. None skips UTMOS and says so in the record.
    """

    name = "utmos"
    score_names = ("utmos",)

    def __init__(self, source: str | None = PUBLISHED_UTMOS) -> None:
        self.source = source

    @property
    def checkpoint(self) -> str:
        """The repository, or a note that UTMOS was not measured."""
        if self.source is None:
            return "not measured (no weights without a network)"
        return f"utmos22_strong of {self.source}, {_SILENCE}"

    def accepts(self, sample: EvalSample) -> bool:
        """Accept every sample if there is a model."""
        return self.source is not None

    def load(self) -> None:
        """Load the model.

        Raises:
            ImportError: torchaudio, which the published model needs, is not installed.
        """
        _ = self._model

    def predict(self, waves: Sequence[np.ndarray]) -> list[Scores]:
        """Predict the score."""
        # A short wave is repeated.
        repeated = [np.resize(wave, max(len(wave), _WAV2VEC_WINDOW)) for wave in waves]
        scores = run_by_length(lambda batch: self._model(batch, RATE), repeated)
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


class DistillMOS(_OpinionScore):
    """DistillMOS (Stahl and Gamper, 2025, arXiv 2502.05356): `distillmos`, a mean opinion score, 1 to 5.

    Windows last 7.68 s with a hop of at most 1 s; shorter samples are padded with silence.
    """

    name = "distillmos"
    score_names = ("distillmos",)

    @property
    def checkpoint(self) -> str:
        """The package, which contains its weights."""
        return f"{version('distillmos', _INSTALL_DISTILLMOS)}, {_SILENCE}"

    def load(self) -> None:
        """Load the model.

        Raises:
            ImportError: distillmos is not installed.
        """
        _ = self._model

    def predict(self, waves: Sequence[np.ndarray]) -> list[Scores]:
        """Predict the score."""
        scores = run_by_length(self._model, waves)
        return [{"distillmos": float(score)} for score in scores]

    @cached_property
    def _model(self) -> Any:
        """The model: (B, T) -> (B, 1)."""
        torchaudio = sys.modules.get("torchaudio")
        # distillmos imports torchaudio, but only its command line uses it.
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        try:
            from distillmos import ConvTransformerSQAModel
        except ImportError:
            raise ImportError(f"DistillMOS needs distillmos: pip install {_INSTALL_DISTILLMOS}") from None
        finally:
            del sys.modules["torchaudio"]
            if torchaudio is not None:
                sys.modules["torchaudio"] = torchaudio
        # It prints the path of its weights.
        with redirect_stdout(StringIO()):
            model = ConvTransformerSQAModel()
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
