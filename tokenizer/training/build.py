"""The stage that a recipe describes, with its weights."""

from ..focalcodec import FocalCodecConfig, FocalCodecModel
from ..focalcodec.mel import MelEncoder
from .config import CodecTrainingConfig
from .distillation import DistillationStage
from .stages import CodecStage, TeacherStage
from .teacher import Teacher

Stage = CodecStage | DistillationStage | TeacherStage


def build_stage(recipe: CodecTrainingConfig) -> Stage:
    """Models are seeded by the caller.

    Raises:
        OSError, ValueError: weights that do not exist, or do not fit.
    """
    if recipe.stage == "teacher":
        return TeacherStage(Teacher.from_config(recipe.teacher_model))
    model = _build_model(recipe)
    target = None if recipe.target is None else FocalCodecModel.from_pretrained(recipe.target)
    if target is not None:
        _check_target(model, target)
    if recipe.stage in ("position", "encoder"):
        assert target is not None
        return DistillationStage(model, recipe, target)
    teacher = None if recipe.teacher is None else Teacher.from_pretrained(recipe.teacher)
    if teacher is not None:
        _check_teacher(model, recipe, teacher)
    return CodecStage(model, recipe, target, teacher)


def _build_model(recipe: CodecTrainingConfig) -> FocalCodecModel:
    model = FocalCodecModel(FocalCodecConfig(**recipe.model))
    for part, source in recipe.parts_from.items():
        trained = getattr(FocalCodecModel.from_pretrained(source), part)
        try:
            result = getattr(model, part).load_state_dict(trained.state_dict(), strict=False)
        except RuntimeError as error:  # other shapes
            raise ValueError(f"parts_from: the {part} of {source} does not fit model.{part}: {error}") from None
        # Stage 4 of a causal codec has no refiner, stage 5 begins with a new one (spec B).
        wrong = [key for key in (*result.missing_keys, *result.unexpected_keys) if not key.startswith("refiner.")]
        if wrong or result.unexpected_keys:
            raise ValueError(
                f"parts_from: the {part} of {source} and model.{part} differ in {wrong or result.unexpected_keys}"
            )
    return model


def _check_target(model: FocalCodecModel, target: FocalCodecModel) -> None:
    ours, theirs = (m.config.encoder_config for m in (model, target))
    if (ours.dim, ours.hop_length) != (theirs.dim, theirs.hop_length):
        raise ValueError(
            f"target gives features of (dim, hop_length) = {(theirs.dim, theirs.hop_length)}, but model.encoder of "
            f"{(ours.dim, ours.hop_length)}"
        )


def _check_teacher(model: FocalCodecModel, recipe: CodecTrainingConfig, teacher: Teacher) -> None:
    """A teacher judges the decoded waveform, or decompressed features if those are what it hears."""
    c = teacher.config
    if recipe.decodes:
        if model.config.output_sampling_rate != c.sampling_rate:
            raise ValueError(
                f"teacher hears {c.sampling_rate} Hz, but model.decoder speaks {model.config.output_sampling_rate} Hz"
            )
    elif not isinstance(model.encoder, MelEncoder) or model.encoder.config != c.mel:
        raise ValueError(
            f"in stage quantizer a teacher judges the features, so model.encoder must be what it hears, {c.mel}; found "
            f"{model.config.encoder}. Use the teacher in stage decoder or joint, where it judges the waveform"
        )
