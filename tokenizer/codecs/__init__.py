"""Other codecs of the FocalCodec paper behind the calls of `FocalCodecModel`; several codebooks in one stream.

Importing it registers the native ones with the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoModel

from .adapter import CodecAdapter
from .bigcodec import BigCodec, BigCodecModel
from .dac import DacCodec
from .encodec import EncodecCodec
from .mimi import MimiCodec
from .pattern import CodePattern
from .semanticodec import SemantiCodec
from .speechtokenizer import SpeechTokenizerCodec, SpeechTokenizerModel
from .stable_codec import StableCodec, StableCodecModel
from .ts3_codec import TS3Codec, TS3CodecModel
from .wavlm_km import WavLMKM, WavLMKMModel
from .wavtokenizer import WavTokenizerCodec, WavTokenizerModel
from .xcodec2 import NeuCodec, Xcodec2Codec

for _model in (
    BigCodecModel,
    SpeechTokenizerModel,
    StableCodecModel,
    TS3CodecModel,
    WavLMKMModel,
    WavTokenizerModel,
):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)

__all__ = [
    "BigCodec",
    "CodePattern",
    "CodecAdapter",
    "DacCodec",
    "EncodecCodec",
    "MimiCodec",
    "NeuCodec",
    "SemantiCodec",
    "SpeechTokenizerCodec",
    "StableCodec",
    "TS3Codec",
    "WavLMKM",
    "WavTokenizerCodec",
    "Xcodec2Codec",
]
