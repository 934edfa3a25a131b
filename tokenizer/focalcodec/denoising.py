"""An encoder that hears through noise: it gives the log-mel frames of the clean speech inside a noisy recording.

Whisper was trained to understand noisy speech, so its features still tell what is said where the spectrum does not. A
codec whose encoder is replaced by this one writes clean tokens for noisy audio.

B batch, T frames, D mel bands; samples are at 16 kHz.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from .layers import StreamState, length_mask, zero_padding
from .mel import MelEncoder
from .parts import DenoisingConfig
from .stack import Compressor
from .whisper import WhisperEncoder


class DenoisingEncoder(nn.Module):
    """Noisy waveform (B, T_samples) -> estimated log-mel frames of the clean speech (B, T, D) at 50 Hz.

    The Conformer writes an estimate and a gate for each band of a frame. An open gate lets the noisy value pass,
    so that what is already clean stays as it is.
    """

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__()
        self.config = config
        self.whisper = WhisperEncoder(config.whisper)
        self.mel = MelEncoder(config.mel)
        self.conformer = Compressor(config.conformer)

    def load_whisper(self, source: str | Path) -> None:
        """Load the layers of Whisper, see `WhisperEncoder.load_whisper`."""
        self.whisper.load_whisper(source)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of frames of signals of (B,) samples, rounded up so that they cover every sample."""
        return self.mel.num_frames(lengths)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """waveform (B, T_samples), lengths (B,) in samples -> (B, T, D); frames of padding are zero."""
        assert state is None, "Whisper is not causal"
        noisy = self.mel(waveform, lengths)
        with torch.no_grad():  # Whisper stays as it is
            heard = self.whisper(waveform, lengths)
        frames = None if lengths is None else self.num_frames(lengths)
        estimate, gate = self.conformer(torch.cat([heard, noisy], dim=-1), frames).chunk(2, dim=-1)
        features = torch.lerp(estimate, noisy, gate.sigmoid())
        if frames is None:
            return features
        return zero_padding(features, length_mask(frames, features.shape[1]))
