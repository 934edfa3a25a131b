"""The model card of a codec: what follows from its config, and how to use it."""

import math
from pathlib import Path

from .cards import UNKNOWN, license_section, section, usage_section, write_first_card
from .codec import Codec
from .hub import PLACE, is_hub_id

CODEC_METADATA = {
    "library_name": "focallm",
    "pipeline_tag": "audio-to-audio",
    "tags": ["speech", "audio-codec", "focalcodec"],
}
_WITH_PACKAGE = f"""
from focallm import AudioTokenizer  # pip install focallm

tokenizer = AudioTokenizer.from_pretrained("{PLACE}")
tokens = tokenizer("speech.wav")
audio = tokenizer.decode(tokens["input_ids"][0], num_samples=int(tokens["num_samples"][0]))
"""
_WITHOUT_PACKAGE = f"""
# Without focallm, with the code in this folder. `audio` is an array.
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("{PLACE}", trust_remote_code=True)
feature_extractor = AutoFeatureExtractor.from_pretrained("{PLACE}", trust_remote_code=True)
inputs = feature_extractor(audio, sampling_rate=16000, return_tensors="pt")
codes = model.encode(**inputs).audio_codes
decoded = model.decode(codes).audio_values
"""


def describe_codec(codec: Codec) -> dict[str, str]:
    """Return what the config of a codec says, as texts by their names."""
    config = codec.config
    K = config.num_quantizers
    sizes = " or ".join(map(str, sorted(set(config.codebook_sizes))))
    bits = sum(math.log2(size) for size in config.codebook_sizes)
    return {
        "codec": type(codec).__name__,
        "audio": f"{config.sampling_rate} Hz -> {config.output_sampling_rate} Hz",
        "rate": f"{config.frame_rate:g} frames/s",
        "codes": f"{K} codebook{'s' if K > 1 else ''} of {sizes} codes",
        "bits": f"{config.frame_rate * bits:.0f} bit/s",
    }


def codec_usage(codec: Codec) -> list[str]:
    """Return the section on how to use a codec."""
    # Where the model is not the codec itself, transformers opens only the network that an adapter wraps.
    if codec.pretrained_model is codec:
        return usage_section(_WITH_PACKAGE, _WITHOUT_PACKAGE)
    return usage_section(_WITH_PACKAGE)


def codec_limits(codec: Codec) -> list[str]:
    """Return the section on what a codec cannot do, and what is not known of it."""
    streaming = "It can be streamed." if codec.is_causal else "It is not causal, so it cannot be streamed exactly."
    return section(
        "Limits",
        f"It reads mono audio; what lies above {codec.config.sampling_rate // 2} Hz is lost. {streaming}",
        "Nothing is known here about kinds of sound, languages and recording conditions that are not listed above.",
    )


def write_codec_card(folder: str | Path, codec: Codec) -> None:
    """Write the card of a codec, unless its folder has one."""
    source = codec.pretrained_model.name_or_path or ""
    facts = describe_codec(codec)
    licenses = {"weights": UNKNOWN, "training recordings": UNKNOWN}
    # A path on the machine that saved them would tell others nothing.
    if is_hub_id(source) or source == "mini":
        facts["loaded from"] = source
        licenses[f"{source}, from which they were loaded"] = UNKNOWN
    body = [*codec_usage(codec), *license_section(licenses), *codec_limits(codec)]
    write_first_card(Path(folder), "A speech codec", CODEC_METADATA, facts, body)
