"""Where a saved speech LM comes from: the package, a folder or the hub; whole, or an adapter around its base."""

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import cached_file

from ..tokenizer.files import write_whole
from ..tokenizer.focalcodec.checkpoint import load_strictly, read_json
from . import lora
from .embeddings import adapt_to_vocabulary, set_special_ids
from .info import INFO_FILE, SpeechLMInfo
from .vocabulary import Vocabulary

HUB = ("revision", "token", "cache_dir")  # options of a hub id, as transformers calls them
LEXICON_FILE = "lexicon.json"  # phonemes by word
INSIDE = {name: Path(__file__).parent / "weights" / name for name in ("mini", "mini-rewriting")}  # weights that ship
MINI = INSIDE["mini"]


def find_folder(source: str | Path, **hub: Any) -> Path:
    """A folder with a speech LM, from "mini", its path, or a hub id, whose options are `HUB`.

    Raises:
        OSError: there is none.
    """
    folder = _place(source)
    if _is_hub_id(source):
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.md"], **hub))
        except (OSError, HfHubHTTPError) as error:
            raise OSError(f"{source} is no folder, and the hub does not give it: {error}") from None
    if not (folder / INFO_FILE).is_file():
        raise OSError(
            f"{folder} holds no {INFO_FILE}, so it is not a speech LM: name the `model` folder of a training run "
            "(focallm train), a hub id, or mini"
        )
    return folder


def is_speech_lm(source: str | Path) -> bool:
    """Whether a folder, a hub id or "mini" holds a speech LM; of the hub, its description alone is fetched."""
    if _is_hub_id(source):
        return cached_file(str(source), INFO_FILE, _raise_exceptions_for_missing_entries=False) is not None
    return (_place(source) / INFO_FILE).is_file()


def _place(source: str | Path) -> Path:
    """The folder that the name of weights inside the package, or a path, stands for."""
    return INSIDE.get(str(source), Path(source))


def _is_hub_id(source: str | Path) -> bool:
    return not Path(source).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) is not None


def read_info(folder: Path) -> SpeechLMInfo:
    """What the model in a folder says about itself; a ValueError if it says nothing sensible."""
    values = read_json(folder / INFO_FILE)
    try:
        return SpeechLMInfo.from_json(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / INFO_FILE} does not describe a speech LM ({error}): train or copy it again"
        ) from None


def read_lexicon(folder: Path) -> dict[str, str]:
    """Phonemes by word, of a model that reads phonemes; none for others."""
    path = folder / LEXICON_FILE
    return read_json(path) if path.is_file() else {}


def load_model(folder: Path, source: str | Path, vocabulary: Vocabulary, options: dict[str, Any]) -> Any:
    """The model in a folder, which `source` stood for; an adapter comes around its base."""
    if (folder / lora.ADAPTER_CONFIG).is_file():
        return _with_adapter(folder, vocabulary, options)
    model = load_strictly(AutoModelForCausalLM.from_pretrained, folder, (), options, None)
    model.config.name_or_path = reference(source)
    set_special_ids(model, vocabulary)  # the folder's own configuration is for plain `generate`
    return model


def _with_adapter(folder: Path, vocabulary: Vocabulary, options: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(folder)
    base = lora.find_base(folder)
    model = load_base(INSIDE.get(base, base), **options)
    model.config.name_or_path = base
    return lora.load_adapter(adapt_to_vocabulary(model, vocabulary, getattr(config, "feature_size", None)), folder)


def load_base(base: str | Path, **kwargs: Any) -> PreTrainedModel:
    """A causal LM of transformers, float32 unless `dtype` is given; safetensors only.

    Keys too many are left to transformers: checkpoints of the hub bring parts that a causal LM has no use for.

    Raises:
        OSError: nothing there, or no safetensors weights.
        ValueError: weights are missing.
    """
    options: dict[str, Any] = {"dtype": torch.float32, **kwargs, "use_safetensors": True, "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{base} lacks {len(missing)} weights, such as {missing[:3]}: fetch it again")
    model.config.name_or_path = reference(base)
    return model


def reference(source: str | Path) -> str:
    """A source as a model remembers it: "mini", a hub id, or a path that holds wherever the process goes."""
    return str(Path(source).resolve()) if str(source) != "mini" and Path(source).is_dir() else str(source)


def write_card(folder: Path, facts: dict[str, str]) -> None:
    """A README.md for the hub, unless there is one: its owner may have written into it."""
    if (folder / "README.md").exists():
        return
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    card = (
        f"---\nlibrary_name: focallm\nlicense: unknown\ntags: [speech, audio]\n---\n\n# A speech language model\n\n"
        f"| | |\n|---|---|\n{rows}\n\nIt opens with `focallm.lm.SpeechLM.from_pretrained(folder)`.\n\n"
        "Before publishing, state above the licences of the codec, of the base model and of the recordings it learnt "
        "from, and here what was measured.\n"
    )
    write_whole(folder / "README.md", card.encode())
