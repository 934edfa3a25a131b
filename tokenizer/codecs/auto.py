"""Find out which codec a folder or hub id holds, and load it."""

from importlib import import_module
from pathlib import Path
from typing import Any

from ..codec import Codec
from ..configs import errors_named
from ..focalcodec.checkpoint import conversion_advice, read_config
from ..focalcodec.checkpoint import is_official as is_official_focalcodec
from ..hub import is_hub_id, unknown_source

# By the `model_type` of config.json: the module and the class of an adapter. A module is imported when it is needed.
_ADAPTERS = {
    "encodec": ("transformers_codecs", "EncodecCodec"),
    "dac": ("transformers_codecs", "DacCodec"),
    "mimi": ("transformers_codecs", "MimiCodec"),
    "xcodec2": ("transformers_codecs", "Xcodec2Codec"),
    "neucodec": ("transformers_codecs", "NeuCodec"),
    "focallm_bigcodec": ("bigcodec", "BigCodec"),
    "focallm_wavtokenizer": ("wavtokenizer", "WavTokenizerCodec"),
    "focallm_speechtokenizer": ("speechtokenizer", "SpeechTokenizerCodec"),
    "focallm_stable_codec": ("stable_codec", "StableCodec"),
    "focallm_ts3_codec": ("ts3_codec", "TS3Codec"),
    "focallm_semanticodec": ("semanticodec", "SemantiCodec"),
    "focallm_wavlm_km": ("wavlm_km", "WavLMKM"),
}
# By our `model_type`: modules whose `is_official(config)` recognizes the config of the authors.
_OFFICIAL = {
    "focallm_bigcodec": "bigcodec",
    "focallm_wavtokenizer": "wavtokenizer",
    "focallm_speechtokenizer": "speechtokenizer",
    "focallm_stable_codec": "stable_codec",
    "focallm_wavlm_km": "wavlm_km_checkpoint",
}
_CONFIG_NAMES = ("config.json", "model_config.json")  # the first one found is used; the second is that of Stable Codec
# The name of the published weights of SemantiCodec, which the package of its authors downloads.
_SEMANTICODEC = "semanticodec"
# Folders of the weights inside this package, by their names.
BUNDLED = {"mini": Path(__file__).parent.parent / "weights" / "mini"}

# Names that need no folder and no hub id.
CODEC_NAMES = (*BUNDLED, _SEMANTICODEC)


def load_codec(source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> Codec:
    """Load the codec of a folder, hub id or bundled name; see `AudioTokenizer.from_pretrained`.

    Raises:
        OSError: There is nothing there, or only pickled weights.
        ValueError: The codec is unknown or does not have that many codebooks, or its weights are damaged.
    """
    source = str(source)
    if source in BUNDLED:
        folder = BUNDLED[source]
        if not folder.is_dir():
            raise OSError(
                f"this installation has no bundled weights at {folder}: install focallm again, or name a folder"
            )
        codec: Any = load_codec(folder, num_codebooks, **kwargs)
        # Token stores keep this name, wherever the package is installed.
        codec.name_or_path = source
        return codec
    if source != _SEMANTICODEC and not Path(source).exists() and not is_hub_id(source):
        raise unknown_source(source, "codec", CODEC_NAMES)
    with errors_named(source):
        return _load(source, num_codebooks, kwargs)


def _load(source: str, num_codebooks: int | None, kwargs: dict[str, Any]) -> Codec:
    """Load the codec of a folder or hub id."""
    model_type = _find_model_type(source, kwargs)
    if model_type in _ADAPTERS:
        # Native codecs have their own advice on pickled weights, and SemantiCodec is loaded by the package of its
        # authors.
        is_native = model_type in _OFFICIAL or model_type == "focallm_semanticodec"
        if not is_native and Path(source).is_dir():
            folder = Path(source, kwargs.get("subfolder", ""))
            if not any(folder.glob("*.safetensors")):
                raise OSError(f"{source} holds no .safetensors weights. {conversion_advice(source, kwargs)}")
        module, class_name = _ADAPTERS[model_type]
        return getattr(_import(module), class_name).from_pretrained(source, num_codebooks, **kwargs)

    if model_type not in (None, "focalcodec"):
        raise ValueError(
            f"{source} holds no codec that is known here: the model_type in its config.json is {model_type!r}, "
            f"expected one of {['focalcodec', *_ADAPTERS]}"
        )
    if num_codebooks not in (None, 1):
        raise ValueError(f"a FocalCodec has one codebook, found num_codebooks={num_codebooks}")
    return import_module("..focalcodec.modeling", __package__).FocalCodecModel.from_pretrained(source, **kwargs)


def _import(module: str) -> Any:
    return import_module(f".{module}", __package__)


def _find_model_type(source: str, kwargs: dict[str, Any]) -> str | None:
    """Find the `model_type` of a checkpoint; ours if its config is that of the authors of a native codec.

    Returns:
        The type. None for the official layout of FocalCodec, and wherever FocalCodec's loader has the best error.
    """
    if source == _SEMANTICODEC:
        return "focallm_semanticodec"
    path = Path(source)
    if path.is_file():
        return None

    config: dict[str, Any] = {}
    for name in _CONFIG_NAMES:
        config = config or read_config(source, kwargs, name)
    model_type = config.get("model_type")
    if is_official_focalcodec(config) or model_type == "focalcodec" or model_type in _ADAPTERS:
        return model_type
    if config:
        for native_type, module in _OFFICIAL.items():
            if _import(module).is_official(config):
                return native_type
        return model_type

    # Two native codecs were published without a config.
    if path.is_dir() and _import("wavtokenizer").is_official_folder(path / kwargs.get("subfolder", "")):
        return "focallm_wavtokenizer"
    if _import("wavlm_km_checkpoint").find_published_layers(source, None, kwargs):
        return "focallm_wavlm_km"
    return None
