"""How good speech sounds, without a reference: DNSMOS (Reddy et al., 2022, arXiv 2110.01763). T samples."""

from collections.abc import Callable

import numpy as np

from ...tokenizer import resample

Quality = Callable[[np.ndarray, int], float]


def load_quality() -> Quality:
    """-> a function of audio (T,) and its rate in Hz: the overall mean opinion score that DNSMOS P.835 predicts, 1 to 5

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from speechmos import dnsmos
    except ImportError:
        raise ImportError("DNSMOS needs speechmos: pip install 'focallm[eval]'") from None

    def score(audio: np.ndarray, rate: int) -> float:
        wave = resample(np.asarray(audio, np.float32), rate, 16000).clip(-1, 1)
        return float(dnsmos.run(wave, sr=16000)["ovrl_mos"])

    return score
