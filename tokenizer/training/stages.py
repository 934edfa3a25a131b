"""Training stages: from a batch to its losses.

B batch, T samples or frames, N token frames, D feature width, K bits of a code.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.configuration import FocalCodecConfig
from ..focalcodec.layers import length_mask
from ..focalcodec.mel import MelEncoder
from ..focalcodec.modeling import FocalCodecModel
from ..focalcodec.wavlm import TransformerEncoder, WavLMEncoder
from .config import (
    DecoderStageConfig,
    DistillationStageConfig,
    JointStageConfig,
    QuantizerStageConfig,
    StageConfig,
)
from .dataset import AudioRates, Batch
from .losses import entropy_loss, mel_loss, stft_loss
from .teacher import Teacher

# Weights of the encoder layers in distillation: first and last, evenly spaced between.
_FIRST_LAYER_WEIGHT = 0.5
_LAST_LAYER_WEIGHT = 1.0

CodecConfig = QuantizerStageConfig | DecoderStageConfig | JointStageConfig


@dataclass
class StageOutput:
    """Output of a stage on a batch."""

    losses: dict[str, Tensor] = field(default_factory=dict)  # by name, without weights
    tokens: Tensor | None = None  # all real tokens of the batch, flattened
    features: Tensor | None = None  # (B, T, D) from the decompressor
    target_features: Tensor | None = None  # (B, T, D)
    feature_lengths: Tensor | None = None  # (B,) real frames of `target_features`
    decoded: Tensor | None = None  # (B, T) waveform
    target_audio: Tensor | None = None  # (B, T) waveform
    transcripts: tuple[str, ...] = ()  # of a teacher that is evaluated


class CodecStage(nn.Module):
    """Stages quantizer (features -> codes -> features), decoder (features -> waveform) and joint (both).

    Features are computed for each batch: clips start anywhere, so a cache would need the features of every offset.

    Args:
        model: codec, of which `config.trainable_parts` are trained.
        config: of the stage.
        target: codec whose encoder gives the target features; None for the model's own.
        teacher: recognizer whose distance is a loss.
    """

    def __init__(
        self, model: FocalCodecModel, config: CodecConfig, target: FocalCodecModel | None, teacher: Teacher | None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.target = target
        self.teacher = teacher
        self.requires_grad_(False)
        for part in config.trainable_parts:
            getattr(model, part).requires_grad_(True)

    @property
    def trained_model(self) -> FocalCodecModel:
        """The model that a checkpoint and the finished run hold."""
        return self.model

    def train(self, mode: bool = True) -> "CodecStage":
        """Set the mode of the model only: target and teacher are always evaluated."""
        super().train(mode)
        if self.target is not None:
            self.target.eval()
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> StageOutput:
        """Compute all losses but those of discriminators."""
        config = self.config
        output = StageOutput()
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" in config.trainable_parts):
            features, lengths = encode(self.model, batch)
        output.target_features = features.detach()
        output.feature_lengths = lengths
        if self.target is not None:
            output.target_features, output.feature_lengths = encode(self.target, batch)

        if config.stage == "quantizer" or config.stage == "joint":
            features = self._quantize(config, features, lengths, output)
        if config.stage == "decoder" and config.decoder_input == "target":
            features = output.target_features
            lengths = output.feature_lengths
        elif config.stage == "decoder" and config.decoder_input == "decompressed":
            with torch.no_grad():
                state = self.model._new_state(features)
                codes = self.model.quantizer.latents_to_codes(self.model.compressor(features, lengths, state))
                features = self.model.decompressor(codes, self.model.compressor.num_frames(lengths), state)
        if config.stage == "decoder" or config.stage == "joint":
            self._decode(config, features, lengths, batch, output)
        if self.teacher is not None:
            self._add_teacher_losses(self.teacher, output)
        return output

    def _quantize(
        self, config: QuantizerStageConfig | JointStageConfig, features: Tensor, lengths: Tensor, output: StageOutput
    ) -> Tensor:
        """Add squared error and entropy loss (arXiv 2502.04465, section 3.4).

        Returns:
            Decompressed features (B, T, D).
        """
        quantizer = self.model.quantizer
        # The state of a streamed codec starts anew for every clip.
        state = self.model._new_state(features)
        latents = quantizer.normalize(self.model.compressor(features, lengths, state).float())
        num_tokens = self.model.compressor.num_frames(lengths)
        # Straight-through: codes in the forward pass, the gradient of the latents in the backward pass.
        codes = latents + (quantizer.latents_to_codes(latents) - latents).detach()
        decompressed = self.model.decompressor(codes, num_tokens, state)[:, : features.shape[1]]
        assert output.target_features is not None
        assert output.feature_lengths is not None

        real_latents = latents[length_mask(num_tokens, latents.shape[1])]
        output.tokens = quantizer.codes_to_tokens(real_latents)
        output.features = decompressed
        if config.feature_weight or not self.training:
            # A causal encoder gives a frame more than a full-context one.
            size = min(decompressed.shape[1], output.target_features.shape[1])
            real = length_mask(output.feature_lengths, size)
            target = output.target_features[:, :size][real]
            output.losses["mse"] = F.mse_loss(decompressed[:, :size][real].float(), target)
        if config.entropy is not None:
            if self.training and config.entropy.frames:
                order = torch.randperm(len(real_latents), device=real_latents.device)
                real_latents = real_latents[order[: config.entropy.frames]]
            output.losses["entropy_loss"] = entropy_loss(real_latents, quantizer)
        return decompressed

    def _decode(
        self,
        config: DecoderStageConfig | JointStageConfig,
        features: Tensor,
        lengths: Tensor,
        batch: Batch,
        output: StageOutput,
    ) -> None:
        """Decode features (B, T, D) and add spectral losses."""
        model = self.model
        target = batch.target_audio
        if self.training and config.crop_seconds:
            features, target = self._crop(config.crop_seconds, features, lengths, target)
        decoded = model.decoder(features, None, model._new_state(features)).float()
        size = min(decoded.shape[1], target.shape[1])
        output.decoded = decoded[:, :size]
        output.target_audio = target[:, :size]
        sampling_rate = model.config.output_sampling_rate
        hop_length = model.config.decoder_config.hop_length
        if config.mel_weight or not self.training:
            output.losses["mel"] = mel_loss(output.decoded, output.target_audio, sampling_rate, hop_length)
        if config.stft_weight:
            output.losses["stft"] = stft_loss(output.decoded, output.target_audio)

    def _crop(self, seconds: float, features: Tensor, lengths: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the same random stretch of features (B, T, D) and audio (B, T'), another one for each item."""
        config = self.model.config
        hop = config.decoder_config.hop_length
        size = max(1, round(seconds * config.sampling_rate / config.hop_length))
        last_start = (lengths - size).clamp(min=0)
        starts = (torch.rand(len(last_start)) * (last_start.cpu() + 1)).long().tolist()
        # The last frame of features may reach beyond the end of the audio.
        audio = F.pad(audio, (0, max(0, features.shape[1] * hop - audio.shape[1])))
        cut_features = []
        cut_audio = []
        for i, start in enumerate(starts):
            cut_features.append(features[i, start : start + size])
            cut_audio.append(audio[i, start * hop : (start + size) * hop])
        return torch.stack(cut_features), torch.stack(cut_audio)

    def _add_teacher_losses(self, teacher: Teacher, output: StageOutput) -> None:
        if output.decoded is not None and output.target_audio is not None:
            hidden, posterior = teacher.distance(teacher.mel(output.decoded), teacher.mel(output.target_audio))
        else:
            assert output.features is not None
            assert output.target_features is not None
            hidden, posterior = teacher.distance(output.features, output.target_features, output.feature_lengths)
        output.losses["teacher"] = hidden
        output.losses["posterior"] = posterior


class DistillationStage(nn.Module):
    """A causal encoder learns the outputs of a full-context one (arXiv 2509.16195).

    Stage position trains only the positional convolution, stage encoder everything but it and the relative embedding.

    Args:
        model: the causal codec.
        config: of the stage.
        target: the full-context codec of the same widths.

    Raises:
        ValueError: one of the encoders is not a WavLM, or they differ in width or layers.
    """

    def __init__(self, model: FocalCodecModel, config: DistillationStageConfig, target: FocalCodecModel) -> None:
        super().__init__()
        self.model = model
        self.target = target
        found = _wavlm_size(model)
        expected = _wavlm_size(target)
        if found is None or found != expected:
            raise ValueError(
                "model.encoder is distilled from the encoder of target, so both must be WavLM encoders of the same "
                f"(dim, num_layers), found {found or 'no WavLM encoder'} and {expected or 'no WavLM encoder'}"
            )
        self.positional = config.stage == "position"
        self.requires_grad_(False)
        transformer = _transformer(model)
        model.encoder.requires_grad_(not self.positional)
        transformer.relative_embedding.requires_grad_(False)
        transformer.positional_embedding.requires_grad_(self.positional)

    @property
    def trained_model(self) -> FocalCodecModel:
        """The model that a checkpoint and the finished run hold."""
        return self.model

    def forward(self, batch: Batch) -> StageOutput:
        """Squared error of the positional convolution's output, or the weighted one of the layers' outputs."""
        with torch.no_grad():
            targets = self._outputs(self.target, batch)
        outputs = self._outputs(self.model, batch)
        # A causal encoder gives a frame more than a full-context one.
        num_frames = torch.minimum(
            self.model.encoder.num_frames(batch.lengths), self.target.encoder.num_frames(batch.lengths)
        )
        size = int(num_frames.max())
        real = length_mask(num_frames, size)
        weights = torch.ones(1)
        if len(outputs) > 1:
            weights = torch.linspace(_FIRST_LAYER_WEIGHT, _LAST_LAYER_WEIGHT, len(outputs))
        errors = []
        for weight, found, wanted in zip(weights.tolist(), outputs, targets, strict=True):
            errors.append(weight * F.mse_loss(found[:, :size][real], wanted[:, :size][real]))
        return StageOutput({"mse": torch.stack(errors).mean()})

    def _outputs(self, model: FocalCodecModel, batch: Batch) -> list[Tensor]:
        """Return what the positional convolution adds, or the outputs of all layers: each (B, T, D)."""
        transformer = _transformer(model)
        modules = [transformer.positional_embedding] if self.positional else list(transformer.layers)
        outputs: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs.append(output)

        hooks = [module.register_forward_hook(keep) for module in modules]
        try:
            model.encoder(batch.input_audio, batch.lengths, model._new_state(batch.input_audio))
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


class TeacherStage(nn.Module):
    """A recognizer of letters is trained on transcripts, by CTC."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    @property
    def trained_model(self) -> Teacher:
        """The model that a checkpoint and the finished run hold."""
        return self.teacher

    def forward(self, batch: Batch) -> StageOutput:
        """CTC loss per letter, and in evaluation what was recognized."""
        num_frames = self.teacher.mel.num_frames(batch.lengths)
        logits, _ = self.teacher(self.teacher.mel(batch.input_audio, batch.lengths), num_frames)
        letters: list[int] = []
        num_letters = []
        for text in batch.texts:
            encoded = self.teacher.encode_text(text)
            letters.extend(encoded)
            num_letters.append(len(encoded))
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.tensor(letters, device=logits.device),
            num_frames,
            torch.tensor(num_letters, device=logits.device),
            zero_infinity=True,  # a text may have more letters than its recording has frames
        )
        transcripts = []
        if not self.training:
            for item_logits, size in zip(logits, num_frames.tolist(), strict=True):
                transcripts.append(self.teacher.decode(item_logits[:size]))
        return StageOutput({"ctc": loss}, transcripts=tuple(transcripts))


Stage = CodecStage | DistillationStage | TeacherStage


def audio_rates(stage: Stage) -> AudioRates:
    """Return the sampling rates of the batches that a stage takes."""
    if isinstance(stage, TeacherStage):
        teacher = stage.teacher.config
        return AudioRates(teacher.sampling_rate, teacher.sampling_rate, teacher.hop_length)
    codec = stage.model.config
    return AudioRates(codec.sampling_rate, codec.output_sampling_rate, codec.samples_per_token)


def encode(model: FocalCodecModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return features (B, T, D) in float32, and the number of real frames of each item (B,)."""
    with torch.autocast(batch.input_audio.device.type, enabled=False):
        features = model.encoder(batch.input_audio, batch.lengths, model._new_state(batch.input_audio))
    return features, model.encoder.num_frames(batch.lengths)


# ---- building a stage with its weights ----


def build_stage(config: StageConfig) -> Stage:
    """Build a stage with its models. New weights are random: seed them before.

    Raises:
        OSError, ValueError: weights that do not exist, or do not fit.
    """
    if config.stage == "teacher":
        return TeacherStage(Teacher.from_config(config.teacher_model))
    model = FocalCodecModel(FocalCodecConfig(**config.model))
    for part, source in config.parts_from.items():
        _load_part(model, part, source)
    target = None
    if config.stage != "joint" and config.target is not None:
        target = FocalCodecModel.from_pretrained(config.target)
        _check_target(model, target)
    if config.stage == "position" or config.stage == "encoder":
        assert target is not None
        return DistillationStage(model, config, target)
    teacher = None
    if config.teacher is not None:
        teacher = Teacher.from_pretrained(config.teacher.folder)
        _check_teacher(model, config, teacher)
    return CodecStage(model, config, target, teacher)


def _load_part(model: FocalCodecModel, part: str, source: str) -> None:
    """Copy the weights of one part from another codec."""
    trained = getattr(FocalCodecModel.from_pretrained(source), part)
    try:
        result = getattr(model, part).load_state_dict(trained.state_dict(), strict=False)
    except RuntimeError as error:  # other shapes
        raise ValueError(f"parts_from: the {part} of {source} does not fit model.{part}: {error}") from None
    # Step 4 of the causal codec has no refiner, step 5 begins with a new one (arXiv 2509.16195).
    missing = [key for key in result.missing_keys if not key.startswith("refiner.")]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"parts_from: the {part} of {source} and model.{part} differ in {[*missing, *result.unexpected_keys]}"
        )


def _check_target(model: FocalCodecModel, target: FocalCodecModel) -> None:
    found = (model.config.encoder_config.dim, model.config.encoder_config.hop_length)
    expected = (target.config.encoder_config.dim, target.config.encoder_config.hop_length)
    if found != expected:
        raise ValueError(f"target gives features of (dim, hop_length) = {expected}, but model.encoder of {found}")


def _check_teacher(model: FocalCodecModel, config: CodecConfig, teacher: Teacher) -> None:
    """A teacher reads the decoded waveform, or the decompressed features if those are its own log-mel frames."""
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


def _wavlm_size(model: FocalCodecModel) -> tuple[int, int] | None:
    """Return (dim, num_layers) of the encoder, or None if it is not a WavLM."""
    if not isinstance(model.encoder, WavLMEncoder):
        return None
    return model.encoder.config.dim, model.encoder.config.num_layers


def _transformer(model: FocalCodecModel) -> TransformerEncoder:
    assert isinstance(model.encoder, WavLMEncoder)
    return model.encoder.encoder
