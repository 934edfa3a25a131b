"""What a codec training run is: one frozen dataclass, read from YAML."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..focalcodec.configuration import FocalCodecConfig

STAGES = ("quantizer", "decoder")
PARTS = ("encoder", "compressor", "decompressor", "decoder")


@dataclass(frozen=True)
class CodecRecipe:
    """One stage of the paper's decoupled recipe (arXiv 2502.04465): both stages stand on frozen encoder features."""

    stage: str  # "quantizer": features -> codes -> features; "decoder": features -> waveform
    model: dict[str, Any] = field(default_factory=dict)  # fields of FocalCodecConfig
    parts_from: dict[str, str] = field(default_factory=dict)  # part -> model folder that its weights come from
    decoder_input: str = "encoder"  # what the decoder is trained on: "encoder" or "decompressed" features
    steps: int = 10000
    batch_size: int = 16
    seconds: float = 4.0  # of each clip
    speed: float = 0.0  # clips are played up to this share faster or slower, with their pitch
    learning_rate: float = 1e-3  # falls to a twentieth on a cosine, after `warmup` steps
    warmup: int = 100
    betas: tuple[float, float] = (0.8, 0.99)
    max_grad_norm: float = 5.0
    entropy_weight: float = 0.1  # quantizer
    entropy_frames: int = 256  # quantizer: frames of a batch that the entropy loss enumerates
    mel_weight: float = 45.0  # decoder
    stft_weight: float = 0.0  # decoder
    adversarial_weight: float = 1.0  # decoder; 0 trains without discriminators
    matching_weight: float = 54.0  # decoder: feature matching
    adversarial_from: int = 0  # decoder: step at which the discriminators join
    discriminator_width: float = 1.0  # decoder: of HiFi-GAN's channel counts
    discriminator_scales: int = 3  # decoder: multi-scale discriminators beside the five multi-period ones
    validation_files: int = 32  # the last files of the corpus, never trained on
    evaluate_every: int = 500
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage must be one of {STAGES}, found {self.stage!r}")
        if self.decoder_input not in ("encoder", "decompressed"):
            raise ValueError(f'decoder_input must be "encoder" or "decompressed", found {self.decoder_input!r}')
        unknown = sorted(set(self.parts_from) - set(PARTS))
        if unknown:
            raise ValueError(f"parts_from knows {PARTS}, found {unknown}")
        if self.stage == "quantizer" and self.decoder_input == "decompressed":
            raise ValueError('decoder_input "decompressed" needs stage "decoder", found stage "quantizer"')
        FocalCodecConfig(**self.model)  # a contradiction in the model is an error here, not after loading the data


def read_recipe(path: Path | str, **overrides: Any) -> CodecRecipe:
    """Read a YAML recipe; keyword arguments replace its entries.

    Raises:
        ValueError: an unknown key (named, with the known ones), or a contradiction.
    """
    values = {**yaml.safe_load(Path(path).read_text()), **overrides}
    known = [f.name for f in dataclasses.fields(CodecRecipe)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{path}: unknown keys {unknown}; a codec recipe has the keys {known}")
    values["betas"] = tuple(values.get("betas", CodecRecipe.betas))
    return CodecRecipe(**values)
