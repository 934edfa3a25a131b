"""Make the Auto classes of transformers know our codecs before the modules of the codecs are imported.

The module of each codec registers its classes with `AutoConfig`, `AutoModel` and so on. But importing it takes seconds,
because it needs the base class of all models of transformers, and `import focallm.tokenizer` should not take that long.
So that import only prepares stand-ins, and nothing is imported until somebody needs it:

1. When transformers imports `AutoConfig` or `AutoFeatureExtractor`, stand-ins are registered with them.
2. When an Auto class opens a checkpoint of one of our codecs, it calls a method of the stand-in, which imports the
   module of the codec. That registers the real classes.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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
    for name, register in list(_REGISTRATIONS.items()):
        if name in sys.modules:
            del _REGISTRATIONS[name]
            register(sys.modules[name])
    sys.meta_path.insert(0, _AutoModuleFinder())


def _register_configs(module: ModuleType) -> None:
    for model_type, (codec_module, class_name) in _CONFIGS.items():
        module.AutoConfig.register(model_type, _make_stand_in(codec_module, class_name), exist_ok=True)


def _register_feature_extractor(module: ModuleType) -> None:
    config = _make_stand_in("focalcodec.modeling", "FocalCodecConfig")
    feature_extractor = _make_stand_in("focalcodec.modeling", "FocalCodecFeatureExtractor")
    module.AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)


# What to do when transformers has imported one of these modules; each is removed when it is done.
_REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractor,
}


def _make_stand_in(codec_module: str, class_name: str) -> type:
    """Make a class with the methods that Auto classes call, which imports the real class when it is used."""

    def import_class() -> Any:
        return getattr(importlib.import_module(f".{codec_module}", __package__), class_name)

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


class _AutoModuleFinder(MetaPathFinder):
    """Runs a function after transformers has imported one of the modules in `_REGISTRATIONS`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as the other finders do, and add to what its loader does."""
        register = _REGISTRATIONS.pop(fullname, None)
        if register is None:
            return None
        # The name is no longer in _REGISTRATIONS, so this search skips this finder.
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_register(module: ModuleType) -> None:
            exec_module(module)
            register(module)

        spec.loader.exec_module = exec_and_register  # type: ignore[method-assign]
        return spec
