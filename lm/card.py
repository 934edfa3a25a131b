"""The model card of a speech LM: its tasks, how to use it, and the licenses of what it was made from."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..tokenizer.audio_tokenizer import AudioTokenizer
from ..tokenizer.cards import UNKNOWN, license_of, license_section, section, usage_section, write_first_card
from ..tokenizer.codecs.auto import BUNDLED
from ..tokenizer.hub import PLACE, is_hub_id
from .info import SpeechLMInfo
from .packaged import PACKAGED_MODELS

_TAGS = ["speech", "focalcodec", "focallm"]
_LOAD = f"""
import focallm  # pip install focallm

lm = focallm.SpeechLM.from_pretrained("{PLACE}")
"""
_PIPELINE = f"""
# Its processor is in the package focallm, so that has to be installed.
from transformers import pipeline

speak = pipeline("text-to-speech", model="{PLACE}", trust_remote_code=True)
audio = speak("Good morning, everyone.")["audio"]
"""


def lm_metadata(info: SpeechLMInfo) -> dict[str, Any]:
    """Return what a hub reads from the card, besides the license."""
    # A model of several tasks is listed under the one that most users look for.
    speaks = any(call.startswith("focallm.speak") for call in info.calls)
    tag = "text-to-speech" if speaks else "audio-to-audio"
    return {"library_name": "transformers", "pipeline_tag": tag, "tags": _TAGS}


def lm_usage(info: SpeechLMInfo) -> list[str]:
    """Return the section on how to use a speech LM."""
    calls = "".join(f"result = {call}\n" for call in info.calls)
    load = f"{_LOAD}{calls}"
    if info.reads_plain_text:
        return usage_section(load, _PIPELINE)
    lines = usage_section(load)
    if info.calls:
        lines += ["", '`pipeline("text-to-speech")` of transformers is not for this model: use the calls above.']
    return lines


def lm_licenses(weights: str, base: str, codec: str, folder: Path) -> list[str]:
    """Return the section of licenses.

    Args:
        weights: license of the weights of the LM.
        base: folder, hub id or name of the weights that these were made from; empty if there are none.
        codec: `SpeechLMInfo.audio_tokenizer`.
        folder: of the LM, which may hold a copy of the codec.
    """
    licenses = {"weights": weights}
    if base:
        # A path on the machine that saved them would tell others nothing.
        name = base if base in PACKAGED_MODELS or is_hub_id(base) else "a folder that is not published"
        licenses[f"weights that these were made from: {name}"] = license_of(PACKAGED_MODELS.get(base, base))
    licenses[f"codec: {codec}"] = license_of(BUNDLED.get(codec, folder / codec))
    licenses["training data"] = UNKNOWN
    return license_section(licenses)


def lm_limits(info: SpeechLMInfo, audio_tokenizer: AudioTokenizer) -> list[str]:
    """Return the section on what a speech LM cannot do, and what is not known of it."""
    tasks = ", ".join(info.tasks) or "none"
    return section(
        "Limits",
        f"It was trained for these tasks only: {tasks}. It reads and writes the tokens of the codec named above, "
        f"{audio_tokenizer.tokens_per_second:g} per second, and of no other, an earlier version of it included.",
        "Nothing is known here about languages, voices and recording conditions that are not listed above.",
    )


def write_lm_card(
    folder: Path, causal_lm: PreTrainedModel, info: SpeechLMInfo, audio_tokenizer: AudioTokenizer, weights: str
) -> None:
    """Write a README.md, unless the folder has one.

    Args:
        folder: of the LM.
        causal_lm: the LM.
        info: of the LM.
        audio_tokenizer: its codec.
        weights: what the file of weights holds.
    """
    facts = {
        "weights": f"{weights}, {type(causal_lm).__name__}",
        "tasks": ", ".join(info.tasks) or "none yet",
        "codec": f"{info.audio_tokenizer}, {audio_tokenizer.tokens_per_second:g} tokens per second",
        "parameters": f"{causal_lm.num_parameters() / 1e6:.1f} M",
    }
    base = causal_lm.config.name_or_path or ""
    body = [
        *lm_usage(info),
        *lm_licenses(UNKNOWN, base, info.audio_tokenizer, folder),
        *lm_limits(info, audio_tokenizer),
    ]
    write_first_card(folder, "A speech language model", lm_metadata(info), facts, body)
