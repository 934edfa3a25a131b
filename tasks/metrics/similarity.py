"""Whether two recordings have the same voice: Resemblyzer (GE2E, Wan et al., 2018, arXiv 1710.10467). T samples."""

from collections.abc import Callable

import numpy as np

from ...tokenizer import resample

Embed = Callable[[np.ndarray, int], np.ndarray]


def load_similarity() -> Embed:
    """-> a function of audio (T,) and its rate in Hz: its voice as a vector of unit length, to be compared by products

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError:
        raise ImportError(
            "voices need Resemblyzer: pip install librosa webrtcvad-wheels; pip install --no-deps resemblyzer"
        ) from None
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(audio: np.ndarray, rate: int) -> np.ndarray:
        wave = resample(np.asarray(audio, np.float32), rate, 16000)
        spoken = preprocess_wav(wave, source_sr=16000)  # louder, and without pauses
        return encoder.embed_utterance(spoken if len(spoken) else wave)

    return embed
