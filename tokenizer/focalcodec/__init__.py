"""FocalCodec: configuration, model, feature extractor; importing it registers them with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from .configuration import FocalCodecConfig
from .feature_extraction import FocalCodecFeatureExtractor
from .modeling import FocalCodecModel

AutoConfig.register(FocalCodecConfig.model_type, FocalCodecConfig, exist_ok=True)
AutoModel.register(FocalCodecConfig, FocalCodecModel, exist_ok=True)
AutoModelForAudioTokenization.register(FocalCodecConfig, FocalCodecModel, exist_ok=True)
AutoFeatureExtractor.register(FocalCodecConfig, FocalCodecFeatureExtractor, exist_ok=True)
# A codec has nothing to process but audio, so its processor is its feature extractor.
AutoProcessor.register(FocalCodecConfig, FocalCodecFeatureExtractor, exist_ok=True)

__all__ = ["FocalCodecConfig", "FocalCodecFeatureExtractor", "FocalCodecModel"]
