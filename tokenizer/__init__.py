"""Speech <-> tokens: the codecs, and `AudioTokenizer`, the face that users see."""

from .audio import read_audio, resample, write_audio
from .audio_tokenizer import AudioTokenizer
from .focalcodec import FocalCodecConfig, FocalCodecFeatureExtractor, FocalCodecModel

__all__ = [
    "AudioTokenizer",
    "FocalCodecConfig",
    "FocalCodecFeatureExtractor",
    "FocalCodecModel",
    "read_audio",
    "resample",
    "write_audio",
]
