"""Make the causal LM of a speech LM, find its folder (in the package, on disk or on the hub), load and describe it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.utils import GENERATION_CONFIG_NAME, PROCESSOR_NAME

from ..tokenizer import hub
from ..tokenizer.audio_tokenizer import AudioTokenizer
from ..tokenizer.config_checks import check_sizes, config_errors
from ..tokenizer.configs import brief, errors_named, read_json
from ..tokenizer.files import first_not_finite, write_whole
from ..tokenizer.focalcodec.checkpoint import check_before_loading, check_loaded, load_strictly
from . import lora
from .embeddings import adapt_to_vocabulary, set_special_ids
from .features import max_positions
from .info import INFO_FILE, SpeechLMInfo
from .packaged import PACKAGED_MODELS
from .sampling import Sampling
from .vocabulary import Vocabulary

LEXICON_FILE = "lexicon.json"  # phonemes by word
# Opens the processor for `AutoProcessor` where this package is installed but was not imported.
_PROCESSOR_MODULE = "focallm_processor"
_PROCESSOR_CODE = '''"""The processor of a speech language model is in the package focallm: pip install focallm."""

from focallm.lm import SpeechLMProcessor  # noqa: F401
'''
CODEC_FOLDER = "audio_tokenizer"  # of a copy of the codec, relative to the folder of the LM
# Maximum duration of what plain `generate` of transformers writes.
_MAX_DURATION_S = 30.0

# Named sizes of new models: fields of `LlamaConfig`.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}


def make_llama(config: str | dict[str, Any], vocabulary: Vocabulary) -> PreTrainedModel:
    """Make a Llama-shaped causal LM with fresh weights.

    Args:
        config: a name in `SIZES`, or fields of `transformers.LlamaConfig`.
        vocabulary: of the model.

    Raises:
        ValueError: no size has this name, or a field is absurd.
    """
    if isinstance(config, str) and config not in SIZES:
        raise ValueError(f"no LM size is called {config!r}: choose from {list(SIZES)} or give LlamaConfig fields")
    fields = SIZES[config] if isinstance(config, str) else config
    check_sizes(fields, "model")
    with config_errors(fields, "model"):
        llama = LlamaConfig(
            **{"max_position_embeddings": 4096, "tie_word_embeddings": True, **fields},
            vocab_size=vocabulary.padded_size,
            pad_token_id=vocabulary.control("pad"),
            bos_token_id=None,
            eos_token_id=vocabulary.control("end"),
        )
        return AutoModelForCausalLM.from_config(llama)


def find_folder(source: str | Path, options: dict[str, Any] | None = None) -> Path:
    """Return the folder of a speech LM.

    Args:
        source: a name in `PACKAGED_MODELS`, a folder, or a hub id, whose files are downloaded.
        options: of `from_pretrained` of transformers.

    Raises:
        OSError: there is no speech LM.
    """
    folder = _local_folder(source)
    if not folder.exists() and not hub.is_hub_id(source):
        raise hub.unknown_source(source, "speech LM", list(PACKAGED_MODELS))
    folder = hub.find_folder(folder, ("*.json", "*.safetensors", "*.md"), options or {})
    if not (folder / INFO_FILE).is_file():
        raise OSError(
            f"{folder} holds no {INFO_FILE}, so it is not a speech LM: name the `model` folder of a training run "
            "(focallm train), a hub id, or mini"
        )
    return folder


def is_speech_lm(source: str | Path) -> bool:
    """Return whether a source is a speech LM; of a hub id only the description is downloaded."""
    if hub.is_hub_id(source):
        return hub.find_file(source, INFO_FILE, {}) is not None
    return (_local_folder(source) / INFO_FILE).is_file()


def _local_folder(source: str | Path) -> Path:
    return PACKAGED_MODELS.get(str(source), Path(source))


def read_info(folder: Path) -> SpeechLMInfo:
    """Read the description of the model in a folder.

    Raises:
        ValueError: the description is damaged.
    """
    return SpeechLMInfo.from_json(read_json(folder / INFO_FILE), str(folder / INFO_FILE))


def read_lexicon(source: str | Path) -> dict[str, str]:
    """Read the phonemes by word of a model that reads phonemes, in a folder or the package; empty for other models.

    Raises:
        ValueError: the lexicon is damaged.
    """
    path = _local_folder(source) / LEXICON_FILE
    lexicon = read_json(path) if path.is_file() else {}
    for word, phonemes in lexicon.items():
        if not isinstance(phonemes, str):
            raise ValueError(f"{path}: the phonemes of {word!r} must be a string, found {brief(phonemes)}")
    return lexicon


def load_codec_of(folder: Path, info: SpeechLMInfo, options: dict[str, Any]) -> AudioTokenizer:
    """Load the codec of a speech LM.

    Args:
        folder: of the LM.
        info: of the LM.
        options: of `from_pretrained` of transformers, of which those of the hub apply.
    """
    known = {name: options[name] for name in ("token", "cache_dir", "local_files_only") if name in options}
    copy = folder / info.audio_tokenizer
    return AudioTokenizer.from_pretrained(copy if copy.is_dir() else info.audio_tokenizer, **known)


def load_model(folder: Path, source: str | Path, vocabulary: Vocabulary, options: dict[str, Any]) -> Any:
    """Load the weights in a folder, with their base if they are an adapter.

    Args:
        folder: from `find_folder`.
        source: what `find_folder` found it from; the model remembers it.
        vocabulary: of the model.
        options: of `from_pretrained` of transformers.
    """
    if (folder / lora.ADAPTER_CONFIG).is_file():
        return _load_with_adapter(folder, vocabulary, options)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        # transformers passes over a damaged one without a word.
        read_json(folder / GENERATION_CONFIG_NAME)
    build = _builder(folder, options)
    load = partial(AutoModelForCausalLM.from_pretrained, trust_remote_code=hub.trusts_remote_code(options))
    with hub.remote_code_explained(folder):
        model = load_strictly(load, folder, (), options, None, build)
    model.config.name_or_path = _absolute(source)
    # The generation config in the folder is for plain `generate` of transformers.
    set_special_ids(model, vocabulary)
    return model


def _load_with_adapter(folder: Path, vocabulary: Vocabulary, options: dict[str, Any]) -> Any:
    trusts = hub.trusts_remote_code(options)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusts)
    base = lora.find_base(folder)
    model = load_base(base, **options)
    model.config.name_or_path = base
    model = adapt_to_vocabulary(model, vocabulary, getattr(config, "feature_size", None))
    adapted = lora.load_adapter(model, folder)
    check_loaded(adapted.state_dict(), folder)
    return adapted


def _builder(source: str | Path, options: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a function that builds the causal LM of a folder or hub id, without its weights."""
    trusts = hub.trusts_remote_code(options)

    def build(_: Any) -> Any:
        known = {name: options[name] for name in hub.HUB_ARGUMENTS if name in options}
        config = AutoConfig.from_pretrained(source, **known, trust_remote_code=trusts)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trusts)

    return build


def load_base(base: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load a causal LM of transformers from safetensors, in float32 unless `dtype` is given.

    Args:
        base: a name in `PACKAGED_MODELS`, a folder or a hub id; the model remembers it.
        kwargs: of `from_pretrained` of transformers.

    Raises:
        OSError: there is no model, or only weights in other formats.
        ValueError: weights are missing or not finite, the config is absurd, or the model needs code of its own.
    """
    source = PACKAGED_MODELS.get(str(base), base)
    trusts = hub.trusts_remote_code(kwargs)
    options: dict[str, Any] = {"dtype": torch.float32, **kwargs, "use_safetensors": True, "output_loading_info": True}
    if not Path(source).is_dir():
        options |= hub.hub_options(kwargs)
    options["trust_remote_code"] = trusts
    with hub.remote_code_explained(base), errors_named(base):
        check_before_loading(source, options, _builder(source, options))
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    model, info = loaded
    check_loaded(model.state_dict(), base)
    # Unexpected keys are fine: checkpoints on the hub have parts that a causal LM does not use.
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{base} lacks {len(missing)} weights, such as {missing[:3]}: fetch it again")
    model.config.name_or_path = _absolute(base)
    return model


def _absolute(source: str | Path) -> str:
    """Return a source in a form that stays valid when the working directory changes."""
    if str(source) not in PACKAGED_MODELS and Path(source).is_dir():
        return str(Path(source).resolve())
    return str(source)


def write_info(folder: Path, info: SpeechLMInfo, lexicon: dict[str, str]) -> None:
    """Write the description and the lexicon of a model into its folder."""
    write_whole(folder / INFO_FILE, json.dumps(asdict(info), indent=1).encode())
    if lexicon:
        write_whole(folder / LEXICON_FILE, json.dumps(lexicon, ensure_ascii=False, indent=0).encode())


def write_processor(
    folder: Path, config: dict[str, Any], vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer | None
) -> None:
    """Write what `AutoProcessor` loads.

    Args:
        folder: to write to.
        config: from `processor_config`.
        vocabulary: of the LM.
        audio_tokenizer: the codec; None if it is elsewhere, and so is not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder)
    if audio_tokenizer is not None and config["info"]["audio_tokenizer"] == CODEC_FOLDER:
        audio_tokenizer.save_pretrained(folder / CODEC_FOLDER)
    write_whole(folder / f"{_PROCESSOR_MODULE}.py", _PROCESSOR_CODE.encode())
    write_whole(folder / PROCESSOR_NAME, json.dumps(config, indent=1).encode())


def processor_config(
    feature_extractor: SequenceFeatureExtractor, vocabulary: Vocabulary, info: SpeechLMInfo
) -> dict[str, Any]:
    """Return the content of processor_config.json."""
    return {
        "processor_class": "SpeechLMProcessor",
        "auto_map": {"AutoProcessor": f"{_PROCESSOR_MODULE}.SpeechLMProcessor"},
        "feature_extractor": feature_extractor.to_dict(),
        "codebook_sizes": list(vocabulary.codebook_sizes),
        "info": asdict(info),
    }


def write_generation_config(
    folder: Path, model: PreTrainedModel, vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer, info: SpeechLMInfo
) -> None:
    """Write how plain `generate` of transformers, which has no phases, writes speech.

    Args:
        folder: to write to.
        model: the LM.
        vocabulary: of the LM.
        audio_tokenizer: the codec.
        info: of the LM. Unless all of its tasks write text, only audio ids can be generated. If it writes only aligned
            speech, generation ends at once: without phases it would be babble.
    """
    sampling = Sampling()
    target_kinds = {template.target.kind for template in info.templates}
    suppressed = None
    if target_kinds != {"text"}:
        allowed = {vocabulary.control("end")}
        if not info.writes_only_aligned_speech:
            allowed.update(vocabulary.audio_range)
        suppressed = sorted({*range(model.config.get_text_config().vocab_size)} - allowed)
    config = GenerationConfig(
        max_new_tokens=min(round(_MAX_DURATION_S * audio_tokenizer.tokens_per_second), max_positions(model) // 2),
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        eos_token_id=vocabulary.control("end"),
        pad_token_id=vocabulary.control("pad"),
        suppress_tokens=suppressed,
        sampling_rate=audio_tokenizer.output_sampling_rate,
    )
    # transformers would write each of the suppressed ids, perhaps a hundred thousand, into a line of its own.
    values = json.loads(config.to_json_string())
    write_whole(folder / GENERATION_CONFIG_NAME, json.dumps(values).encode())


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if weights are infinite or NaN, so that they are not saved."""
    name = first_not_finite(weights)
    if name:
        raise ValueError(f"{name} is not finite, so the model is not saved: its training diverged; use a checkpoint")
