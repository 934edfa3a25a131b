"""The two stages: what one step of each does to the model. B batch, T samples or frames, D feature width."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.modeling import FocalCodecModel
from . import losses
from .discriminators import Discriminators
from .recipe import CodecRecipe


def learning_rate(recipe: CodecRecipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    progress = min(1.0, step / recipe.steps)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * (0.525 + 0.475 * math.cos(math.pi * progress))


class QuantizerStage(nn.Module):
    """Compressor, quantiser and decompressor learn to give the encoder's features back (spec A.2: MSE + entropy)."""

    def __init__(self, model: FocalCodecModel, recipe: CodecRecipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        parameters = [*model.compressor.parameters(), *model.decompressor.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, recipe.betas)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What a checkpoint must hold."""
        return [self.optimizer]

    def step(self, waveform: Tensor, step: int) -> dict[str, float]:
        """One update on (B, T) clips; -> what to log."""
        features = _features(self.model, waveform)
        latents, decompressed = self._pass(features)
        mse = F.mse_loss(decompressed, features)
        frames = latents.flatten(0, 1)
        sample = frames[torch.randperm(len(frames))[: self.recipe.entropy_frames]]
        entropy = losses.entropy_loss(sample, self.model.quantizer)
        self.optimizer.zero_grad()
        (mse + self.recipe.entropy_weight * entropy).backward()
        norm = losses.gradient_norm([self.model.compressor, self.model.decompressor], self.recipe.max_grad_norm)
        _apply(self.optimizer, learning_rate(self.recipe, step))
        return {"mse": mse.item(), "entropy_loss": entropy.item(), "gradient_norm": norm.item()}

    @torch.no_grad()
    def evaluate(self, waveforms: list[Tensor]) -> dict[str, float]:
        """Feature error and use of the codebook on whole (1, T) signals."""
        errors, tokens = [], []
        for waveform in waveforms:
            features = _features(self.model, waveform)
            latents, decompressed = self._pass(features)
            errors.append(F.mse_loss(decompressed, features).item())
            tokens.append(self.model.quantizer.codes_to_tokens(latents).flatten())
        counts = torch.bincount(torch.cat(tokens), minlength=self.model.config.codebook_size).double()
        p = counts[counts > 0] / counts.sum()
        return {
            "validation_mse": sum(errors) / len(errors),
            "codes_used": float((counts > 0).sum()),
            "tokens": float(counts.sum()),
            "entropy_bits": float(-(p * p.log2()).sum()),
        }

    def _pass(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> latents (B, N, K) and decompressed features (B, T, D), with a straight-through gradient."""
        quantizer = self.model.quantizer
        latents = quantizer.normalize(self.model.compressor(features))
        codes = latents + (quantizer.latents_to_codes(latents) - latents).detach()
        return latents, self.model.decompressor(codes)[:, : features.shape[1]]


class DecoderStage(nn.Module):
    """The decoder learns to turn features into sound (spec A.1: hinge GAN + feature matching + mel L1)."""

    def __init__(self, model: FocalCodecModel, recipe: CodecRecipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.discriminators = None
        if recipe.adversarial_weight:
            self.discriminators = Discriminators(recipe.discriminator_width, scales=recipe.discriminator_scales)
        self.optimizer = torch.optim.AdamW(model.decoder.parameters(), recipe.learning_rate, recipe.betas)
        self.rivals = None
        if self.discriminators is not None:
            self.rivals = torch.optim.AdamW(self.discriminators.parameters(), recipe.learning_rate, recipe.betas)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What a checkpoint must hold."""
        return [optimizer for optimizer in (self.optimizer, self.rivals) if optimizer is not None]

    def step(self, waveform: Tensor, step: int) -> dict[str, float]:
        """One update on (B, T) clips, discriminators first; -> what to log."""
        rate = learning_rate(self.recipe, step)
        generated = self._generate(waveform)
        waveform = waveform[:, : generated.shape[1]]
        mel, stft = self._reconstruction(generated, waveform)
        loss = self.recipe.mel_weight * mel + self.recipe.stft_weight * stft
        logs = {"mel": mel.item(), "stft": stft.item()}
        if self.discriminators is not None and self.rivals is not None and step >= self.recipe.adversarial_from:
            real, _ = self.discriminators(waveform)
            fake, _ = self.discriminators(generated.detach())
            rival_loss = losses.discriminator_loss(real, fake)
            self.rivals.zero_grad()
            rival_loss.backward()
            losses.gradient_norm([self.discriminators], self.recipe.max_grad_norm)
            _apply(self.rivals, rate)
            self.discriminators.requires_grad_(False)
            with torch.no_grad():
                _, real_activations = self.discriminators(waveform)
            fake, fake_activations = self.discriminators(generated)
            self.discriminators.requires_grad_(True)
            adversarial = losses.generator_loss(fake)
            matching = losses.feature_matching_loss(real_activations, fake_activations)
            loss = loss + self.recipe.adversarial_weight * adversarial + self.recipe.matching_weight * matching
            logs |= {"discriminator": rival_loss.item(), "generator": adversarial.item(), "matching": matching.item()}
        self.optimizer.zero_grad()
        loss.backward()
        logs["gradient_norm"] = losses.gradient_norm([self.model.decoder], self.recipe.max_grad_norm).item()
        _apply(self.optimizer, rate)
        return logs

    @torch.no_grad()
    def evaluate(self, waveforms: list[Tensor]) -> dict[str, float]:
        """Reconstruction losses on whole (1, T) signals."""
        mels, stfts = [], []
        for waveform in waveforms:
            generated = self._generate(waveform)
            mel, stft = self._reconstruction(generated[:, : waveform.shape[1]], waveform[:, : generated.shape[1]])
            mels.append(mel.item())
            stfts.append(stft.item())
        return {"validation_mel": sum(mels) / len(mels), "validation_stft": sum(stfts) / len(stfts)}

    def _generate(self, waveform: Tensor) -> Tensor:
        """(B, T) -> decoded (B, T'), from the features that the recipe names"""
        features = _features(self.model, waveform)
        if self.recipe.decoder_input == "decompressed":
            with torch.no_grad():
                latents = self.model.compressor(features)
                features = self.model.decompressor(self.model.quantizer.latents_to_codes(latents))
        return self.model.decoder(features)

    def _reconstruction(self, generated: Tensor, waveform: Tensor) -> tuple[Tensor, Tensor]:
        config = self.model.config
        mel = losses.mel_loss(generated, waveform, config.output_sampling_rate, config.hop_length)
        return mel, losses.stft_loss(generated, waveform)


@torch.no_grad()
def _features(model: FocalCodecModel, waveform: Tensor) -> Tensor:
    """Computed anew for each batch: clips are drawn at random, and a cache would need the features of every offset."""
    return model.encoder(waveform)


def _apply(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
