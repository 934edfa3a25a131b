"""What is learnt in each stage: from a batch to the loss. B batch, T samples or frames, N tokens, D width, K bits."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.masks import length_mask
from ..focalcodec.modeling import FocalCodecModel
from . import losses
from .config import CodecTrainingConfig
from .dataset import Batch
from .entropy import entropy_loss
from .teacher import Teacher


@dataclass
class Outcome:
    """Result of a stage on a batch."""

    losses: dict[str, Tensor]  # by name; the trainer weighs and adds them
    tokens: Tensor | None = None  # all real tokens in a row
    features: Tensor | None = None  # (B, T, D) as they leave the decompressor
    target: Tensor | None = None  # (B, T, D) as they should
    lengths: Tensor | None = None  # (B,) frames of `target` that are real
    generated: Tensor | None = None  # (B, T) waveform
    real: Tensor | None = None  # (B, T) waveform, what it should be
    recognised: tuple[str, ...] = ()  # by a teacher in training


class CodecStage(nn.Module):
    """Stages quantizer (features -> codes -> features), decoder (features -> waveform) and joint (all of it).

    Features are computed anew for each batch: clips are drawn at random, and a cache would need those of every offset.

    Args:
        model: of which the recipe's parts learn.
        recipe: says which losses there are.
        target: its encoder gives the features to aim at; None for the model's own.
        teacher: judges features, or waveforms where there is a decoder.
    """

    def __init__(
        self,
        model: FocalCodecModel,
        recipe: CodecTrainingConfig,
        target: FocalCodecModel | None,
        teacher: Teacher | None,
    ) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.target, self.teacher = target, teacher
        self.requires_grad_(False)
        for part in recipe.trainable_parts:
            getattr(model, part).requires_grad_(True)

    def learning(self) -> FocalCodecModel:
        """What a checkpoint and the finished run hold."""
        return self.model

    def train(self, mode: bool = True) -> "CodecStage":
        """As of any module, but the judges stay as they are."""
        super().train(mode)
        for judge in (self.target, self.teacher):
            if judge is not None:
                judge.eval()
        return self

    def forward(self, batch: Batch) -> Outcome:
        """All losses of a batch but those of discriminators."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" in self.recipe.trainable_parts):
            features, lengths = encode(self.model, batch)
        outcome = Outcome({}, target=features.detach(), lengths=lengths)
        if self.target is not None:
            outcome.target, outcome.lengths = encode(self.target, batch)
        if self.recipe.quantizes:
            features = self._quantize(features, lengths, outcome)
        if self.recipe.decodes:
            self._decode(features, lengths, batch, outcome)
        if self.teacher is not None:
            self._judge(outcome)
        return outcome

    def _quantize(self, features: Tensor, lengths: Tensor, outcome: Outcome) -> Tensor:
        """-> decompressed features (B, T, D) with a straight-through gradient (spec A.2: MSE + entropy)"""
        quantizer, recipe = self.model.quantizer, self.recipe
        state = self.model._new_state(features)
        latents = quantizer.normalize(self.model.compressor(features, lengths, state).float())
        counts = self.model.compressor.num_frames(lengths)
        codes = latents + (quantizer.latents_to_codes(latents) - latents).detach()
        decompressed = self.model.decompressor(codes, counts, state)[:, : features.shape[1]]
        assert outcome.target is not None
        assert outcome.lengths is not None
        size = min(decompressed.shape[1], outcome.target.shape[1])  # a causal encoder has a frame more than others
        real = length_mask(outcome.lengths, size)
        frames = latents[length_mask(counts, latents.shape[1])]
        outcome.tokens = quantizer.codes_to_tokens(frames)
        outcome.features = decompressed
        if recipe.feature_weight or not self.training:
            outcome.losses["mse"] = F.mse_loss(decompressed[:, :size][real].float(), outcome.target[:, :size][real])
        if recipe.entropy_weight:
            if self.training and recipe.entropy_frames:
                frames = frames[torch.randperm(len(frames), device=frames.device)[: recipe.entropy_frames]]
            outcome.losses["entropy_loss"] = entropy_loss(
                frames, quantizer, recipe.inverse_temperature, recipe.entropy_bits
            )
        return decompressed

    def _decode(self, features: Tensor, lengths: Tensor, batch: Batch, outcome: Outcome) -> None:
        """Spec A.1: log-mel L1; the discriminators' part is the trainer's."""
        model, recipe = self.model, self.recipe
        if recipe.decoder_input == "target":
            assert outcome.target is not None
            assert outcome.lengths is not None
            features, lengths = outcome.target, outcome.lengths
        elif recipe.decoder_input == "decompressed":
            with torch.no_grad():
                state = model._new_state(features)
                codes = model.quantizer.latents_to_codes(model.compressor(features, lengths, state))
                features = model.decompressor(codes, model.compressor.num_frames(lengths), state)
        real = batch.spoken
        if self.training and recipe.crop_seconds:
            features, real = self._crop(features, lengths, real)
        generated = model.decoder(features, None, model._new_state(features)).float()
        size = min(generated.shape[1], real.shape[1])
        outcome.generated, outcome.real = generated[:, :size], real[:, :size]
        rate, hop = model.config.output_sampling_rate, model.config.decoder_config.hop_length
        if recipe.mel_weight or not self.training:
            outcome.losses["mel"] = losses.mel_loss(outcome.generated, outcome.real, rate, hop)
        if recipe.stft_weight:
            outcome.losses["stft"] = losses.stft_loss(outcome.generated, outcome.real)

    def _crop(self, features: Tensor, lengths: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The same random stretch of both, another one for each item."""
        config = self.model.config
        hop = config.decoder_config.hop_length
        size = max(1, round(self.recipe.crop_seconds * config.sampling_rate / config.hop_length))
        last = (lengths - size).clamp(min=0)
        starts = (torch.rand(len(last)) * (last.cpu() + 1)).long().tolist()
        cut = torch.stack([f[s : s + size] for f, s in zip(features, starts, strict=True)])
        real = F.pad(real, (0, max(0, features.shape[1] * hop - real.shape[1])))
        return cut, torch.stack([r[s * hop : (s + size) * hop] for r, s in zip(real, starts, strict=True)])

    def _judge(self, outcome: Outcome) -> None:
        assert self.teacher is not None
        assert outcome.target is not None
        if outcome.generated is not None and outcome.real is not None:
            pair = (self.teacher.mel(outcome.generated), self.teacher.mel(outcome.real))
            inner, divergence = self.teacher.distance(*pair)
        else:
            assert outcome.features is not None
            inner, divergence = self.teacher.distance(outcome.features, outcome.target, outcome.lengths)
        outcome.losses |= {"teacher": inner, "posterior": divergence}


class TeacherStage(nn.Module):
    """A recogniser of letters learns from transcripts, by CTC."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def learning(self) -> Teacher:
        """What a checkpoint and the finished run hold."""
        return self.teacher

    def forward(self, batch: Batch) -> Outcome:
        """CTC loss per letter."""
        frames = self.teacher.mel.num_frames(batch.lengths)
        logits, _ = self.teacher(self.teacher.mel(batch.heard, batch.lengths), frames)
        letters = [self.teacher.encode_text(text) for text in batch.texts]
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.tensor([letter for text in letters for letter in text], device=logits.device),
            frames,
            torch.tensor([len(text) for text in letters], device=logits.device),
            zero_infinity=True,  # more letters than frames can hold
        )
        recognised: tuple[str, ...] = ()
        if not self.training:
            recognised = tuple(self.teacher.decode(row[:n]) for row, n in zip(logits, frames.tolist(), strict=True))
        return Outcome({"ctc": loss}, recognised=recognised)


def encode(model: FocalCodecModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """-> features (B, T, D) in float32, and how many frames of each item are real (B,)"""
    with torch.autocast(batch.heard.device.type, enabled=False):
        features = model.encoder(batch.heard, batch.lengths, model._new_state(batch.heard))
    return features, model.encoder.num_frames(batch.lengths)
