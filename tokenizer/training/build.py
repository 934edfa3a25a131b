"""Build a stage: its models, with weights from other codecs and from recognizers, checked to fit together."""

from ..codecs.auto import BUNDLED
from ..focalcodec.configuration import FocalCodecConfig
from ..focalcodec.denoising import DenoisingEncoder
from ..focalcodec.mel import MelEncoder
from ..focalcodec.modeling import FocalCodecModel
from ..focalcodec.whisper import WhisperEncoder, is_whisper
from .config import StageConfig
from .stages import CodecConfig, CodecStage, DenoisingStage, DistillationStage, Stage, TeacherStage
from .teacher import Teacher, WhisperJudge


def build_stage(config: StageConfig) -> Stage:
    """Build a stage with its models. New weights are random, so call `torch.manual_seed` first.

    Raises:
        OSError: Weights that do not exist.
        ValueError: Weights or models that do not fit together.
    """
    if config.stage == "teacher":
        return TeacherStage(Teacher.from_config(config.teacher_model))
    model = FocalCodecModel(FocalCodecConfig(**config.model))
    for part, source in config.parts_from.items():
        _load_part(model, part, source)
    target = None
    if config.stage != "joint" and config.target is not None:
        target = _load_codec(config.target)
        _check_target(model, target)
    if config.stage == "position" or config.stage == "encoder":
        assert target is not None
        return DistillationStage(model, config, target)
    if config.stage == "denoising":
        assert target is not None
        if not isinstance(model.encoder, DenoisingEncoder):
            raise ValueError(
                f"stage denoising trains an encoder of type 'denoising', found type {model.config.encoder['type']!r}: "
                "change model.encoder"
            )
        return DenoisingStage(model, target)
    teacher = None
    if config.teacher is not None:
        teacher = Teacher.from_pretrained(config.teacher.folder)
        _check_teacher(model, config, teacher)
    judge = None
    if config.stage == "quantizer" and config.judge is not None:
        if not isinstance(model.encoder, WhisperEncoder):
            raise ValueError(
                f"judge: Whisper's layers read features of Whisper, found an encoder of type "
                f"{model.config.encoder['type']!r}: use one of type 'whisper', or judge: null"
            )
        judge = WhisperJudge(model.encoder, config.judge.source)
    return CodecStage(model, config, target, teacher, judge)


def _load_codec(source: str) -> FocalCodecModel:
    """Load a FocalCodec from a folder, a hub id, or the package."""
    return FocalCodecModel.from_pretrained(BUNDLED.get(source, source))


def _load_part(model: FocalCodecModel, part: str, source: str) -> None:
    """Copy the weights of one part from another codec, or those of the encoder from Whisper."""
    if part == "encoder" and isinstance(model.encoder, WhisperEncoder | DenoisingEncoder) and is_whisper(source):
        model.encoder.load_whisper(source)
        return
    weights = getattr(_load_codec(source), part).state_dict()
    try:
        result = getattr(model, part).load_state_dict(weights, strict=False)
    except RuntimeError as error:  # tensors of another shape
        raise ValueError(f"parts_from: the {part} of {source} does not fit model.{part}: {error}") from None
    # In the causal codec, step 4 has no refiner and step 5 starts with a new one (arXiv 2509.16195).
    missing = [key for key in result.missing_keys if not key.startswith("refiner.")]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"parts_from: the {part} of {source} and model.{part} differ in {[*missing, *result.unexpected_keys]}; "
            f"give model.{part} the settings in the config.json of that codec"
        )


def _check_target(model: FocalCodecModel, target: FocalCodecModel) -> None:
    found = (model.config.encoder_config.dim, model.config.encoder_config.hop_length)
    expected = (target.config.encoder_config.dim, target.config.encoder_config.hop_length)
    if found != expected:
        raise ValueError(
            f"target gives features of (dim, hop_length) = {expected}, but model.encoder of {found}: change "
            "model.encoder, or name another target"
        )


def _check_teacher(model: FocalCodecModel, config: CodecConfig, teacher: Teacher) -> None:
    """Check that the teacher can read what the stage puts out: a waveform, or features that are its log-mel frames."""
    expected = teacher.config
    if config.stage == "quantizer":
        if not isinstance(model.encoder, MelEncoder) or model.encoder.config != expected.mel:
            raise ValueError(
                f"in stage quantizer a teacher reads the features, so model.encoder must give its input, "
                f"{expected.mel}; found {model.config.encoder}. Use the teacher in stage decoder or joint, where it "
                "reads the waveform"
            )
    elif model.config.output_sampling_rate != expected.sampling_rate:
        raise ValueError(
            f"teacher reads {expected.sampling_rate} Hz, but model.decoder writes "
            f"{model.config.output_sampling_rate} Hz: train the teacher at the rate of the decoder"
        )
