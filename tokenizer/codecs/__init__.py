"""Other codecs of the FocalCodec paper behind the calls of `FocalCodecModel`; several codebooks in one stream."""

from .adapter import CodecAdapter
from .dac import DacCodec
from .encodec import EncodecCodec
from .mimi import MimiCodec
from .pattern import CodePattern
from .stable_codec import StableCodec

__all__ = ["CodePattern", "CodecAdapter", "DacCodec", "EncodecCodec", "MimiCodec", "StableCodec"]
