"""What a codec training run is: one frozen dataclass, read from YAML."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_yaml
from ..focalcodec.configuration import FocalCodecConfig

PARTS = ("encoder", "compressor", "decompressor", "decoder")
LEARNS = {  # stage -> parts of the codec that learn, unless the recipe names them
    "quantizer": ("compressor", "decompressor"),  # features -> codes -> features
    "decoder": ("decoder",),  # features -> waveform
    "joint": PARTS,  # waveform -> codes -> waveform, all parts end to end
    "position": ("encoder",),  # only its positional convolution, distilled from the encoder of `target`
    "encoder": ("encoder",),  # all but its position information, distilled from the encoder of `target`
    "teacher": (),  # no codec: the recogniser whose hearing the weights `teacher_*` are about
}
SCHEDULES = ("cosine", "exponential", "newbob", "constant")
_QUANTIZE, _DECODE = ("quantizer", "joint"), ("decoder", "joint")


@dataclass(frozen=True)
class CodecTrainingConfig:
    """One stage of training a codec (arXiv 2502.04465: decoupled stages that stand on frozen encoder features)."""

    stage: str  # a key of `LEARNS`
    model: dict[str, Any] = field(default_factory=dict)  # fields of FocalCodecConfig
    parts_from: dict[str, str] = field(default_factory=dict)  # part -> codec (folder, hub id) its weights come from
    learns: tuple[str, ...] = ()  # parts that learn; () for those of the stage
    target: str | None = None  # codec whose encoder gives the features to aim at; None: the model's own encoder
    decoder_input: str = "encoder"  # stage decoder: "encoder", "decompressed" or "target" features
    teacher: str | None = None  # folder that stage teacher left, RUN/teacher
    adversary_from: str | None = None  # run of another stage whose discriminators go on learning; None: new ones
    teacher_model: dict[str, Any] = field(default_factory=dict)  # stage teacher: fields of TeacherConfig

    steps: int = 10000
    batch_size: int = 16  # of all processes together
    seconds: float = 4.0  # of each clip; 0 for whole utterances
    max_seconds: float = 20.0  # longer utterances are left out where they are taken whole
    crop_seconds: float = 0.0  # of the features of a clip, what the decoder is given; 0 for all
    in_memory: bool = True  # 115 MB an hour; false reads each clip from its file
    workers: int = 0  # processes that prepare clips ahead
    speed: float = 0.0  # clips are played up to this share faster or slower, with their pitch
    tilt_db: float = 0.0  # the spectrum is tilted by up to this much at both ends
    rooms: float = 0.0  # share of clips that get the tail of a random room

    learning_rate: float = 1e-3
    schedule: str = "cosine"  # to a twentieth; exponential: x decay per epoch; newbob: x decay where progress is small
    decay: float = 0.999
    warmup: int = 100  # steps
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    max_grad_norm: float = 5.0
    ema: float = 0.0  # decay of the averaged weights that are evaluated and saved; 0 for none
    bf16: bool = True  # matrix products in bfloat16 on a GPU; a CPU computes in float32

    feature_weight: float = 1.0  # quantizer, joint: squared error of the decompressed features
    entropy_weight: float = 0.1  # quantizer, joint
    entropy_bits: int = 0  # bits whose codes are enumerated together; 0: all of them, as published
    entropy_frames: int = 0  # random frames of a batch that the entropy is taken of; 0: all
    inverse_temperature: float = 100.0  # of the entropy's soft assignment
    mel_weight: float = 45.0  # decoder, joint
    stft_weight: float = 0.0  # decoder, joint
    adversarial_weight: float = 1.0  # decoder, joint; 0 trains without discriminators
    matching_weight: float = 54.0  # decoder, joint: feature matching
    adversarial_features: bool = False  # quantizer: a discriminator of the decompressed features, with both weights
    adversarial_from: int = 0  # step at which the discriminators join
    discriminator_rate: float = 1.0  # their learning rate, in units of `learning_rate`: small ones need more
    discriminator_width: float = 1.0  # of HiFi-GAN's channel counts
    discriminator_scales: int = 3  # multi-scale discriminators beside the five multi-period ones
    discriminator_resolutions: int = 0  # multi-resolution ones, on spectrograms: a fifth of the time of scales on a CPU
    teacher_weight: float = 0.0  # quantizer, decoder, joint: distance of the teacher's inner layers
    posterior_weight: float = 0.0  # quantizer, decoder, joint: divergence of what the teacher recognises

    usage_floor: float = 0.5  # a warning below this share of the codes that even use would show
    validation_files: int = 32  # the last files of the corpus, never trained on
    evaluate_every: int = 500
    checkpoint_every: int = 500
    seed: int = 0

    @property
    def quantizes(self) -> bool:
        """Whether codes are part of what is learnt."""
        return self.stage in _QUANTIZE

    @property
    def decodes(self) -> bool:
        """Whether a waveform is part of what is learnt."""
        return self.stage in _DECODE

    @property
    def use_gan(self) -> bool:
        """Whether discriminators take part: of waveforms, or of features."""
        return self.adversarial_weight > 0 and (self.decodes or self.adversarial_features)

    @property
    def trainable_parts(self) -> tuple[str, ...]:
        """Parts of the codec that learn."""
        return self.learns or LEARNS[self.stage]

    def __post_init__(self) -> None:
        if self.stage not in LEARNS:
            raise ValueError(f"stage must be one of {tuple(LEARNS)}, found {self.stage!r}")
        for name, allowed in (("schedule", SCHEDULES), ("decoder_input", ("encoder", "decompressed", "target"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, found {getattr(self, name)!r}")
        for name, given in (("parts_from", self.parts_from), ("learns", self.learns)):
            unknown = sorted(set(given) - set(PARTS))
            if unknown:
                raise ValueError(f"{name} knows {PARTS}, found {unknown}")
        wrong = [message for holds, message in _contradictions(self) if holds]
        if wrong:
            raise ValueError("; ".join(wrong))
        if self.stage != "teacher":
            FocalCodecConfig(**self.model)  # a contradiction in the model is an error here, not after loading the data


def _contradictions(r: CodecTrainingConfig) -> list[tuple[bool, str]]:
    """Pairs of fields that exclude each other: whether they do so here, and what to say then."""
    stage = f'stage "{r.stage}"'
    heard = r.teacher_weight > 0 or r.posterior_weight > 0
    return [
        (r.stage != "decoder" and r.decoder_input != "encoder",
         f'decoder_input "{r.decoder_input}" needs stage "decoder", found {stage}'),
        (r.decoder_input == "target" and not r.target, 'decoder_input "target" needs target, a codec'),
        (r.stage in ("position", "encoder") and not r.target, f"{stage} needs target, the codec to distil from"),
        (r.stage == "teacher" and bool(r.model or r.learns or r.target or r.parts_from or r.teacher),
         f"{stage} trains a recogniser: it takes teacher_model, not model, parts_from, learns, target or teacher"),
        (r.stage != "teacher" and bool(r.teacher_model), f'teacher_model needs stage "teacher", found {stage}'),
        (r.stage == "teacher" and r.seconds > 0,
         f"{stage} learns from transcripts, which belong to whole utterances: seconds must be 0, found {r.seconds}"),
        (r.adversarial_features and r.stage != "quantizer",
         f'adversarial_features needs stage "quantizer", where features are what is learnt; found {stage}'),
        (bool(r.adversary_from) and not r.use_gan,
         f"adversary_from names discriminators, and {stage} with adversarial_weight {r.adversarial_weight} has none"),
        (heard and not r.teacher, "teacher_weight and posterior_weight need teacher, the folder of a teacher"),
        (bool(r.teacher) and not heard, "teacher is given, but teacher_weight and posterior_weight are 0"),
        (heard and not (r.quantizes or r.decodes), f"teacher_weight and posterior_weight mean nothing in {stage}"),
        (r.crop_seconds > r.seconds > 0, f"crop_seconds ({r.crop_seconds}) is more than seconds ({r.seconds})"),
        (r.crop_seconds > 0 and not r.decodes, f"crop_seconds is what a decoder is given, found {stage}"),
        (r.decodes and r.seconds == 0 and r.crop_seconds == 0,
         f"{stage} on whole utterances (seconds: 0) needs crop_seconds: they differ in length"),
        (not 0 <= r.ema < 1, f"ema must be in [0, 1), found {r.ema}"),
        (not 0 < r.decay <= 1, f"decay must be in (0, 1], found {r.decay}"),
        (min(r.steps, r.batch_size, r.warmup, r.validation_files, r.evaluate_every, r.checkpoint_every) < 1,
         "steps, batch_size, warmup, validation_files, evaluate_every and checkpoint_every must be at least 1"),
    ]  # fmt: skip


def read_recipe(path: Path | str, **overrides: Any) -> CodecTrainingConfig:
    """Read a YAML recipe; keyword arguments replace its entries.

    Raises:
        ValueError: an unknown key (named, with the known ones), a value of another type, or a contradiction.
    """
    return recipe_from({**read_yaml(path), **overrides}, str(path))


def recipe_from(values: Mapping[str, Any], place: str) -> CodecTrainingConfig:
    """The recipe that these entries describe; raises as `read_recipe`, and says in which `place` they stand."""
    fields = {f.name: f for f in dataclasses.fields(CodecTrainingConfig)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{place}: unknown keys {unknown}; a codec recipe has the keys {list(fields)}")
    if "stage" not in values:
        raise ValueError(f"{place}: stage is missing, one of {tuple(LEARNS)}")
    entries = dict(values)
    for name in ("betas", "learns"):
        entries[name] = tuple(entries.get(name, fields[name].default))
    wrong = [
        f"{name} must be {kind.__name__}, found {entries[name]!r}"
        for name, kind in _kinds(fields).items()
        if name in entries and not _fits(entries[name], kind)
    ]
    if wrong:
        raise ValueError(f"{place}: {'; '.join(wrong)}")
    return CodecTrainingConfig(**entries)


def _kinds(fields: dict[str, Any]) -> dict[str, type]:
    """Types of the fields whose default shows one."""
    kinds = {name: type(f.default) for name, f in fields.items() if isinstance(f.default, bool | int | float | str)}
    return {**kinds, "stage": str, "model": dict, "parts_from": dict, "teacher_model": dict}


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))
