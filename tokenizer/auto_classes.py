"""Make the Auto classes of transformers know our codecs before the modules of the codecs are imported.

The module of each codec registers its classes with `AutoConfig`, `AutoModel` and so on. But importing it takes seconds,
because it needs torch and the base class of all models of transformers, and `import focallm.tokenizer` should be fast.
So that import only prepares stand-ins:

1. When transformers imports `AutoConfig` or `AutoFeatureExtractor`, stand-ins are registered with them.
2. When an Auto class opens a checkpoint of one of our codecs, it calls a method of a stand-in, which imports the module
   of the codec. That registers the real classes.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

# By the `model_type` in config.json: the module of a codec and the class of its config.
_CONFIGS = {
    "focalcodec": ("focalcodec.modeling", "FocalCodecConfig"),
    "focallm_bigcodec": ("codecs.bigcodec", "BigCodecConfig"),
    "focallm_speechtokenizer": ("codecs.speechtokenizer", "SpeechTokenizerConfig"),
    "focallm_stable_codec": ("codecs.stable_codec", "StableCodecConfig"),
    "focallm_ts3_codec": ("codecs.ts3_codec", "TS3CodecConfig"),
    "focallm_wavlm_km": ("codecs.wavlm_km", "WavLMKMConfig"),
    "focallm_wavtokenizer": ("codecs.wavtokenizer", "WavTokenizerConfig"),
}


def register_lazily() -> None:
    """Register stand-ins with the Auto classes, now if transformers has imported them, otherwise when it does."""
    wrapt.register_post_import_hook(_register_configs, "transformers.models.auto.configuration_auto")
    wrapt.register_post_import_hook(_register_feature_extractor, "transformers.models.auto.feature_extraction_auto")


def _register_configs(module: ModuleType) -> None:
    for model_type, (codec_module, class_name) in _CONFIGS.items():
        module.AutoConfig.register(model_type, _make_stand_in(codec_module, class_name), exist_ok=True)


def _register_feature_extractor(module: ModuleType) -> None:
    config = _make_stand_in("focalcodec.modeling", "FocalCodecConfig")
    feature_extractor = _make_stand_in("focalcodec.modeling", "FocalCodecFeatureExtractor")
    module.AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)


def _make_stand_in(codec_module: str, class_name: str) -> type:
    """Make a class that imports the real class when one of the methods that Auto classes use is called."""

    def import_class() -> Any:
        return getattr(import_module(f".{codec_module}", __package__), class_name)

    class StandIn:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return import_class()(*args, **kwargs)

        @classmethod
        def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
            return import_class().from_dict(*args, **kwargs)

        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            return import_class().from_pretrained(*args, **kwargs)

    # AutoFeatureExtractor looks for the name that is saved in preprocessor_config.json.
    StandIn.__name__ = class_name
    return StandIn
