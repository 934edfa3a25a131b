"""FocalCodec: configuration, model, feature extractor."""

from .configuration import FocalCodecConfig
from .modeling import FocalCodecModel

__all__ = ["FocalCodecConfig", "FocalCodecModel"]
