"""Settings of codec training: one frozen dataclass per stage, read from YAML.

FocalCodec is trained in decoupled stages (arXiv 2502.04465, section 3.4), which a recipe chains:

    teacher             a small speech recognizer, whose hidden layers serve as a loss of the stages below
    quantizer           features -> codes -> features
    decoder             features -> waveform
    joint               waveform -> codes -> waveform
    position, encoder   the causal encoder, distilled from a full-context one (arXiv 2509.16195)
    denoising           an encoder of noisy speech, whose target is what another encoder gives for the clean speech
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..configs import errors_named, load_config, read_yaml
from ..focalcodec.configuration import FocalCodecConfig

Part = Literal["encoder", "compressor", "decompressor", "decoder"]


# ---- sections of a recipe ----


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to every training clip."""

    speed: float = 0.0  # maximum change of speed, as a fraction; it changes the pitch too
    tilt_db: float = 0.0  # maximum tilt of the spectrum at either end
    reverb_probability: float = 0.0
    noise: str | None = None  # folder of noise recordings
    noise_probability: float = 0.2
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    babble: float = 0.0  # share of the noise that is other recordings of the corpus, four to eight at once
    colored: float = 0.0  # share that is white, pink or brown, steady or swelling; the rest comes from `noise`


@dataclass(frozen=True)
class EntropyConfig:
    """Entropy loss of the codes, see `losses.entropy_loss`."""

    weight: float = 0.1
    frames: int = 0  # number of random frames of a batch for which it is computed; 0 for all


@dataclass(frozen=True)
class CacheConfig:
    """Features of the frozen encoder that are computed once, see `feature_cache`."""

    folder: str
    copies: int = 1  # differently augmented copies of the corpus

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, found {self.copies}")


@dataclass(frozen=True)
class JudgeConfig:
    """Squared error of the last features of Whisper, computed from the codec's by the layers that the codec lacks."""

    source: str  # folder that scripts/whisper_weights.py wrote, or hub id
    weight: float = 1.0
    items: int = 0  # number of random items of a batch for which it is computed; 0 for all


@dataclass(frozen=True)
class TeacherLossConfig:
    """Perceptual loss, computed with a recognizer that stage "teacher" trained."""

    folder: str  # the folder RUN/teacher of that stage
    hidden_weight: float = 0.0  # distance between hidden layers
    posterior_weight: float = 0.0  # divergence between output distributions

    def __post_init__(self) -> None:
        if self.hidden_weight <= 0 and self.posterior_weight <= 0:
            raise ValueError("hidden_weight or posterior_weight must be above 0, or the teacher has no effect")


@dataclass(frozen=True)
class GanConfig:
    """Adversarial training against discriminators. In stage quantizer, the discriminator reads features."""

    weight: float = 1.0  # of the generator's hinge loss
    matching_weight: float = 54.0  # of feature matching
    width: float = 1.0  # number of channels, relative to the published sizes
    learning_rate_factor: float = 1.0  # times `learning_rate`; small discriminators need more
    start_from: str | None = None  # run whose discriminators are trained further; null for new ones


@dataclass(frozen=True)
class WaveformGanConfig(GanConfig):
    """Adversarial training on waveforms: five multi-period discriminators, and the ones below."""

    scales: int = 3  # multi-scale discriminators
    resolutions: int = 0  # multi-resolution discriminators; on a CPU five times as fast as multi-scale ones


# ---- stages ----


@dataclass(frozen=True, kw_only=True)
class CodecTrainingConfig:
    """Settings that all stages share: data, optimizer, evaluation."""

    steps: int = 10000
    batch_size: int = 16  # of all processes together
    max_seconds: float = 20.0  # limit where whole utterances are used; longer ones are left out
    in_memory: bool = True  # keep the corpus in memory, 115 MB per hour; false reads every clip from its file
    workers: int = 0  # number of processes that prepare batches
    augmentation: AugmentationConfig = AugmentationConfig()

    learning_rate: float = 1e-3
    # cosine: down to 1/20. exponential: times `decay` per epoch. newbob: times `decay` at a plateau.
    schedule: Literal["cosine", "exponential", "newbob", "constant"] = "cosine"
    decay: float = 0.999
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    max_grad_norm: float = 5.0
    ema: float = 0.0  # decay of the averaged weights, which are evaluated and saved; 0 for no averaging
    bf16: bool = True  # autocast to bfloat16 on a GPU; a CPU computes in float32

    validation_files: int = 32  # the last files of the corpus, never trained on
    evaluate_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup_steps", "validation_files", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), found {self.ema}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], found {self.decay}")


@dataclass(frozen=True, kw_only=True)
class TeacherStageConfig(CodecTrainingConfig):
    """Trains a small recognizer on transcripts, by CTC. No codec is involved."""

    stage: Literal["teacher"] = "teacher"
    teacher_model: dict[str, Any] = field(default_factory=dict)  # fields of `teacher.TeacherConfig`

    # A transcript belongs to the whole utterance, so there are no clips.
    clip_seconds: float = field(default=0.0, init=False)


@dataclass(frozen=True, kw_only=True)
class CodecStageConfig(CodecTrainingConfig):
    """Settings that all stages of a codec share."""

    model: dict[str, Any] = field(default_factory=dict)  # fields of FocalCodecConfig
    parts_from: dict[Part, str] = field(default_factory=dict)  # part -> codec (folder or hub id) of its weights
    clip_seconds: float = 4.0  # 0 for whole utterances
    cache: CacheConfig | None = None  # of the encoder's features; null computes them for every batch

    def __post_init__(self) -> None:
        super().__post_init__()
        # Report a mistake in the model now, not after loading the data.
        FocalCodecConfig(**self.model)
        if self.cache is not None:
            if "encoder" in getattr(self, "trainable_parts", ()):
                raise ValueError('cache holds features of a frozen encoder, but trainable_parts has "encoder"')
            if not self.clip_seconds or not self.in_memory:
                raise ValueError("cache needs clip_seconds above 0 and in_memory: true")


@dataclass(frozen=True, kw_only=True)
class QuantizerStageConfig(CodecStageConfig):
    """Features -> codes -> features."""

    stage: Literal["quantizer"] = "quantizer"
    trainable_parts: tuple[Part, ...] = ("compressor", "decompressor")
    target: str | None = None  # codec whose features are reconstructed; null for those of the model's own encoder
    feature_weight: float = 1.0  # of the squared error
    entropy: EntropyConfig | None = EntropyConfig()
    judge: JudgeConfig | None = None  # for an encoder of type "whisper"
    teacher: TeacherLossConfig | None = None
    gan: GanConfig | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderStageConfig(CodecStageConfig):
    """Features -> waveform."""

    stage: Literal["decoder"] = "decoder"
    trainable_parts: tuple[Part, ...] = ("decoder",)
    # mixed: half of the items of a batch are decompressed, the others continuous
    decoder_input: Literal["encoder", "decompressed", "mixed", "target"] = "encoder"
    bit_flips: float = 0.0  # share of the bits that are flipped before they are decompressed
    target: str | None = None  # codec whose features are decoded if decoder_input is "target"
    crop_seconds: float = 0.0  # duration of a random part of each clip that is decoded; 0 for the whole clip
    mel_weight: float = 45.0
    stft_weight: float = 0.0
    teacher: TeacherLossConfig | None = None
    gan: WaveformGanConfig | None = WaveformGanConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_crop(self.crop_seconds, self.clip_seconds)
        if (self.decoder_input == "target") != (self.target is not None):
            raise ValueError(
                f'decoder_input "target" and target, a codec, need each other; found decoder_input '
                f'"{self.decoder_input}" and target {self.target!r}'
            )


@dataclass(frozen=True, kw_only=True)
class JointStageConfig(CodecStageConfig):
    """Waveform -> codes -> waveform, end to end."""

    stage: Literal["joint"] = "joint"
    trainable_parts: tuple[Part, ...] = ("encoder", "compressor", "decompressor", "decoder")
    feature_weight: float = 1.0
    entropy: EntropyConfig | None = EntropyConfig()
    crop_seconds: float = 0.0  # as in the decoder stage
    mel_weight: float = 45.0
    stft_weight: float = 0.0
    teacher: TeacherLossConfig | None = None
    gan: WaveformGanConfig | None = WaveformGanConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_crop(self.crop_seconds, self.clip_seconds)


@dataclass(frozen=True, kw_only=True)
class DistillationStageConfig(CodecStageConfig):
    """Distills the causal encoder: in one stage its positional convolution, in the next one all other layers."""

    stage: Literal["position", "encoder"]
    target: str  # codec with the full-context encoder
    trainable_parts: tuple[Part, ...] = field(default=("encoder",), init=False)


@dataclass(frozen=True, kw_only=True)
class DenoisingStageConfig(CodecStageConfig):
    """Trains an encoder of type "denoising" on noisy clips. `augmentation` makes the noise; its target has none."""

    stage: Literal["denoising"] = "denoising"
    target: str  # codec with a mel encoder
    trainable_parts: tuple[Part, ...] = field(default=("encoder",), init=False)


StageConfig = (
    TeacherStageConfig
    | QuantizerStageConfig
    | DecoderStageConfig
    | JointStageConfig
    | DistillationStageConfig
    | DenoisingStageConfig
)
STAGES: dict[str, type[StageConfig]] = {
    "teacher": TeacherStageConfig,
    "quantizer": QuantizerStageConfig,
    "decoder": DecoderStageConfig,
    "joint": JointStageConfig,
    "position": DistillationStageConfig,
    "encoder": DistillationStageConfig,
    "denoising": DenoisingStageConfig,
}


def _check_crop(crop_seconds: float, clip_seconds: float) -> None:
    if crop_seconds > clip_seconds > 0:
        raise ValueError(f"crop_seconds ({crop_seconds}) is more than clip_seconds ({clip_seconds})")
    if crop_seconds == 0 and clip_seconds == 0:
        raise ValueError("whole utterances (clip_seconds: 0) differ in length, so a decoder needs crop_seconds")


# ---- recipes ----


def load_stage(values: Any, name: str) -> StageConfig:
    """Build the config of one stage from a mapping of YAML.

    Args:
        values: the mapping. Its key `stage` determines which other keys are allowed.
        name: what error messages call the mapping.

    Raises:
        ValueError: `stage` is missing or unknown, or any mistake that `load_config` reports.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a mapping of settings, found {values!r}")
    if "stage" not in values:
        raise ValueError(f"{name}: the key stage is missing, one of {', '.join(STAGES)}")
    if values["stage"] not in STAGES:
        raise ValueError(f"{name}: stage must be one of {', '.join(STAGES)}, found {values['stage']!r}")
    return load_config(STAGES[values["stage"]], values, name)


def read_stages(path: Path | str, run: Path) -> dict[Path, StageConfig]:
    """Read the recipe of one stage or of several stages.

    A file either describes one stage, which is trained in `run` itself, or has the single key `stages`, a mapping from
    names to stages, each of which is trained in `run/name`. Their `parts_from`, `target`, `teacher.folder` and
    `gan.start_from` may name an earlier stage.

    Args:
        path: path of a YAML file.
        run: folder of the run.

    Returns:
        The folder and the config of each stage, in the order of training.

    Raises:
        ValueError: As in `load_stage`; the message names the stage.
    """
    values = read_yaml(path)
    # This is a recipe of a single stage, or a mistake that `load_stage` reports.
    if not isinstance(values, dict) or "stages" not in values:
        return {run: load_stage(values, str(path))}
    stages = values["stages"]
    if len(values) > 1 or not isinstance(stages, dict) or not stages:
        raise ValueError(
            f"{path}: a recipe with the key stages has no other key, and names at least one stage; found {list(values)}"
        )
    configs: dict[Path, StageConfig] = {}
    results: dict[str, Path] = {}
    for name, stage_values in stages.items():
        folder = run / name
        with errors_named(path):
            resolved = _resolve(stage_values, results, run)
        configs[folder] = load_stage(resolved, f"{path}: stages.{name}")
        results[name] = result_folder(folder, configs[folder])
    return configs


def result_folder(folder: Path, config: StageConfig) -> Path:
    """Return the folder in which a stage that is trained in `folder` saves its model when it is finished."""
    return folder / ("teacher" if config.stage == "teacher" else "model")


def _resolve(values: Any, results: dict[str, Path], run: Path) -> Any:
    """Replace names of earlier stages by the folders of their results. `load_stage` reports malformed values."""
    if not isinstance(values, dict):
        return values
    resolved = dict(values)
    if values.get("target") in results:
        resolved["target"] = str(results[values["target"]])
    if isinstance(values.get("parts_from"), dict):
        resolved["parts_from"] = {part: str(results.get(name, name)) for part, name in values["parts_from"].items()}
    teacher = values.get("teacher")
    if isinstance(teacher, dict) and teacher.get("folder") in results:
        resolved["teacher"] = {**teacher, "folder": str(results[teacher["folder"]])}
    gan = values.get("gan")
    if isinstance(gan, dict) and gan.get("start_from") in results:
        resolved["gan"] = {**gan, "start_from": str(run / gan["start_from"])}
    return resolved
