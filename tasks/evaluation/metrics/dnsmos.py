"""How good speech sounds, without a reference: DNSMOS P.835 and P.808 (Reddy et al., 2022, arXiv 2110.01763)."""

from collections.abc import Sequence

from .metric import RATE, Metric, version
from .sample import Line, Sound

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

    def measure(self, sounds: Sequence[Sound]) -> list[Line]:
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
