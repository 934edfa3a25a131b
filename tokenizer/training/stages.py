"""Training stages: from a batch to its losses.

B batch, T samples or frames, N token frames, D feature width, K bits of a code.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.denoising import DenoisingEncoder
from ..focalcodec.layers import length_mask
from ..focalcodec.modeling import FocalCodecModel
from ..focalcodec.wavlm import WavLMEncoder
from .config import (
    DecoderStageConfig,
    DistillationStageConfig,
    JointStageConfig,
    QuantizerStageConfig,
)
from .dataset import AudioRates, Batch
from .losses import entropy_loss, mel_loss, stft_loss
from .teacher import Teacher, WhisperJudge

# Weights of the encoder layers in distillation: first and last, evenly spaced between.
_FIRST_LAYER_WEIGHT = 0.5
_LAST_LAYER_WEIGHT = 1.0

CodecConfig = QuantizerStageConfig | DecoderStageConfig | JointStageConfig


@dataclass
class StageOutput:
    """Output of a stage on a batch."""

    losses: dict[str, Tensor] = field(default_factory=dict)  # by name, not yet weighted
    tokens: Tensor | None = None  # all real tokens of the batch, flattened
    features: Tensor | None = None  # (B, T, D) from the decompressor
    target_features: Tensor | None = None  # (B, T, D)
    feature_lengths: Tensor | None = None  # (B,) real frames of `target_features`
    decoded: Tensor | None = None  # (B, T) waveform
    target_audio: Tensor | None = None  # (B, T) waveform
    transcripts: tuple[str, ...] = ()  # recognized by a teacher, in evaluation only


class CodecStage(nn.Module):
    """Stages quantizer (features -> codes -> features), decoder (features -> waveform) and joint (both).

    Features are computed for each batch, unless it has them, because a clip can start at any sample of a recording.

    Args:
        model: codec whose `config.trainable_parts` are trained.
        config: settings of the stage.
        target: codec whose encoder computes the target features; None for the encoder of `model`.
        teacher: recognizer for the perceptual loss; None for no such loss.
        judge: layers of Whisper for the loss of the quantizer; None for no such loss.
    """

    def __init__(
        self,
        model: FocalCodecModel,
        config: CodecConfig,
        target: FocalCodecModel | None,
        teacher: Teacher | None,
        judge: WhisperJudge | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.target = target
        self.teacher = teacher
        self.judge = judge
        self.requires_grad_(False)
        for part in config.trainable_parts:
            getattr(model, part).requires_grad_(True)

    @property
    def trained_model(self) -> FocalCodecModel:
        """The model that checkpoints contain and the finished run saves."""
        return self.model

    def train(self, mode: bool = True) -> "CodecStage":
        """Set the mode of the model only: target and teacher were loaded in evaluation mode and stay in it."""
        self.training = mode
        self.model.train(mode)
        return self

    def forward(self, batch: Batch) -> StageOutput:
        """Compute all losses except those of the discriminators."""
        config = self.config
        output = StageOutput()
        lengths = self.model.encoder.num_frames(batch.lengths)
        if batch.features is not None:
            features = batch.features
        else:
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
        elif config.stage == "decoder" and config.decoder_input != "encoder":
            decompressed = self._decompress(config, features, lengths)
            # Evaluations decode what a user would hear.
            if self.training and config.decoder_input == "mixed":
                half = len(features) // 2
                size = features.shape[1]
                decompressed = torch.cat([features[:half], decompressed[half:, :size]])
            features = decompressed
        if config.stage == "decoder" or config.stage == "joint":
            self._decode(config, features, lengths, batch, output)
        if self.teacher is not None:
            self._add_teacher_losses(self.teacher, output)
        return output

    def _quantize(
        self, config: QuantizerStageConfig | JointStageConfig, features: Tensor, lengths: Tensor, output: StageOutput
    ) -> Tensor:
        """Quantize features (B, T, D), and add squared error and entropy loss (arXiv 2502.04465, section 3.4).

        Returns:
            Decompressed features (B, T, D).
        """
        quantizer = self.model.quantizer
        # A causal codec starts with an empty state for every clip.
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
        # Evaluations report this loss even if its weight is 0.
        if config.feature_weight or not self.training:
            # A causal encoder yields one frame more than a full-context one.
            size = min(decompressed.shape[1], output.target_features.shape[1])
            real = length_mask(output.feature_lengths, size)
            target = output.target_features[:, :size][real]
            output.losses["mse"] = F.mse_loss(decompressed[:, :size][real].float(), target)
        if config.entropy is not None:
            if self.training and config.entropy.frames:
                order = torch.randperm(len(real_latents), device=real_latents.device)
                real_latents = real_latents[order[: config.entropy.frames]]
            output.losses["entropy_loss"] = entropy_loss(real_latents, quantizer)
        if config.stage == "quantizer" and config.judge is not None:
            assert self.judge is not None
            items = torch.arange(len(features))
            if self.training and config.judge.items:
                items = torch.randperm(len(features))[: config.judge.items]
            output.losses["judge"] = self.judge.distance(
                decompressed[items], output.target_features[items], output.feature_lengths[items]
            )
        return decompressed

    @torch.no_grad()
    def _decompress(self, config: DecoderStageConfig, features: Tensor, lengths: Tensor) -> Tensor:
        """Quantize and decompress features (B, T, D), in training with some of the bits flipped."""
        state = self.model._new_state(features)
        codes = self.model.quantizer.latents_to_codes(self.model.compressor(features, lengths, state))
        if self.training and config.bit_flips:
            codes = torch.where(torch.rand_like(codes) < config.bit_flips, -codes, codes)
        return self.model.decompressor(codes, self.model.compressor.num_frames(lengths), state)

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
        """Cut the same random stretch from features (B, T, D) and audio (B, T'), a different one for each item."""
        config = self.model.config
        hop = config.decoder_config.hop_length
        size = max(1, round(seconds * config.sampling_rate / config.hop_length))
        last_start = (lengths - size).clamp(min=0)
        starts = (torch.rand(len(last_start)) * (last_start.cpu() + 1)).long().tolist()
        # The last frame may extend beyond the end of the audio.
        audio = F.pad(audio, (0, max(0, features.shape[1] * hop - audio.shape[1])))
        cut_features = [features[i, start : start + size] for i, start in enumerate(starts)]
        cut_audio = [audio[i, start * hop : (start + size) * hop] for i, start in enumerate(starts)]
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

    Stage position trains only the positional convolution; stage encoder trains everything else except the relative
    embedding.

    Args:
        model: causal codec.
        config: settings of the stage.
        target: full-context codec with an encoder of the same width and number of layers.

    Raises:
        ValueError: One of the encoders is not a WavLM, or they differ in width or number of layers.
    """

    def __init__(self, model: FocalCodecModel, config: DistillationStageConfig, target: FocalCodecModel) -> None:
        super().__init__()
        self.model = model
        self.target = target
        encoder = _wavlm(model)
        found = (encoder.config.dim, encoder.config.num_layers)
        expected = (_wavlm(target).config.dim, _wavlm(target).config.num_layers)
        if found != expected:
            raise ValueError(
                "model.encoder is distilled from the encoder of target, so both need the same (dim, num_layers), "
                f"found {found} and {expected}: change model.encoder, or name another target"
            )
        self.position_only = config.stage == "position"
        self.requires_grad_(False)
        encoder.requires_grad_(not self.position_only)
        encoder.encoder.relative_embedding.requires_grad_(False)
        encoder.encoder.positional_embedding.requires_grad_(self.position_only)

    @property
    def trained_model(self) -> FocalCodecModel:
        """The model that checkpoints contain and the finished run saves."""
        return self.model

    def forward(self, batch: Batch) -> StageOutput:
        """Compute the squared error of the positional convolution, or the weighted mean of that of all layers."""
        with torch.no_grad():
            targets = self._outputs(self.target, batch)
        outputs = self._outputs(self.model, batch)
        # A causal encoder yields one frame more than a full-context one.
        num_frames = torch.minimum(
            self.model.encoder.num_frames(batch.lengths), self.target.encoder.num_frames(batch.lengths)
        )
        size = int(num_frames.max())
        real = length_mask(num_frames, size)
        weights = torch.ones(1)
        if len(outputs) > 1:
            weights = torch.linspace(_FIRST_LAYER_WEIGHT, _LAST_LAYER_WEIGHT, len(outputs))
        errors = []
        for weight, output, target in zip(weights.tolist(), outputs, targets, strict=True):
            errors.append(weight * F.mse_loss(output[:, :size][real], target[:, :size][real]))
        return StageOutput({"mse": torch.stack(errors).mean()})

    def _outputs(self, model: FocalCodecModel, batch: Batch) -> list[Tensor]:
        """Return the output (B, T, D) of the positional convolution, or the outputs of all layers."""
        transformer = _wavlm(model).encoder
        modules = [transformer.positional_embedding] if self.position_only else list(transformer.layers)
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


class DenoisingStage(nn.Module):
    """A denoising encoder learns to give, for noisy audio, what another encoder gives for the clean audio.

    Args:
        model: codec with an encoder of type "denoising", whose Conformer is trained.
        target: codec whose encoder hears the clean audio.
    """

    def __init__(self, model: FocalCodecModel, target: FocalCodecModel) -> None:
        super().__init__()
        self.model = model
        self.target = target
        self.requires_grad_(False)
        assert isinstance(model.encoder, DenoisingEncoder)
        model.encoder.conformer.requires_grad_(True)

    @property
    def trained_model(self) -> FocalCodecModel:
        """The model that checkpoints contain and the finished run saves."""
        return self.model

    def forward(self, batch: Batch) -> StageOutput:
        """Compute the absolute error of the features, which blurs less than the squared one."""
        assert batch.clean_audio is not None
        with torch.no_grad():
            target = self.target.encoder(batch.clean_audio, batch.lengths)
        features = self.model.encoder(batch.input_audio, batch.lengths)
        real = length_mask(self.model.encoder.num_frames(batch.lengths), features.shape[1])
        return StageOutput({"l1": F.l1_loss(features[real].float(), target[real])})


class TeacherStage(nn.Module):
    """Trains a recognizer of letters on transcripts, by CTC."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    @property
    def trained_model(self) -> Teacher:
        """The model that checkpoints contain and the finished run saves."""
        return self.teacher

    def forward(self, batch: Batch) -> StageOutput:
        """Compute the CTC loss per letter, and in evaluation also the recognized text."""
        num_frames = self.teacher.mel.num_frames(batch.lengths)
        logits, _ = self.teacher(self.teacher.mel(batch.input_audio, batch.lengths), num_frames)
        letters = [torch.tensor(self.teacher.encode_text(text), dtype=torch.long) for text in batch.texts]
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.cat(letters).to(logits.device),
            num_frames,
            torch.tensor([len(text) for text in letters], device=logits.device),
            zero_infinity=True,  # a text may have more letters than its recording has frames
        )
        transcripts = []
        if not self.training:
            for item_logits, size in zip(logits, num_frames.tolist(), strict=True):
                transcripts.append(self.teacher.decode(item_logits[:size]))
        return StageOutput({"ctc": loss}, transcripts=tuple(transcripts))


Stage = CodecStage | DistillationStage | DenoisingStage | TeacherStage


def audio_rates(stage: Stage) -> AudioRates:
    """Return the sampling rates of the batches that a stage expects."""
    if isinstance(stage, TeacherStage):
        teacher = stage.teacher.config
        return AudioRates(teacher.sampling_rate, teacher.sampling_rate, teacher.hop_length)
    codec = stage.model.config
    return AudioRates(codec.sampling_rate, codec.output_sampling_rate, codec.samples_per_token)


def encode(model: FocalCodecModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute features (B, T, D) in float32. Also returns the number of real frames of each item, (B,)."""
    with torch.autocast(batch.input_audio.device.type, enabled=False):
        features = model.encoder(batch.input_audio, batch.lengths, model._new_state(batch.input_audio))
    return features, model.encoder.num_frames(batch.lengths)


def _wavlm(model: FocalCodecModel) -> WavLMEncoder:
    if not isinstance(model.encoder, WavLMEncoder):
        raise ValueError(
            "stages position and encoder distill WavLM encoders, found an encoder of type "
            f"{model.config.encoder['type']!r}: use codecs with an encoder of type 'wavlm' for model and target"
        )
    return model.encoder
