"""Whether two recordings have the same voice: WavLM x-vectors (Chen et al., 2022, arXiv 2110.13900), or Resemblyzer
(GE2E, Wan et al., 2018, arXiv 1710.10467). D width, T samples."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....tokenizer import resample
from .metric import RATE, EvalSample, Metric, Scores, by_length, device, name_of, version

PUBLISHED_XVECTORS = "microsoft/wavlm-base-sv"
_INSTALL = "librosa webrtcvad-wheels; pip install --no-deps resemblyzer"


class Voice(Metric):
    """Cosine similarity of a sound's voice to each of `EvalSample.voices`, under their keys."""

    name = "voice"

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray] = {}  # one recording is compared with what many systems make of it

    def fits(self, sound: EvalSample) -> bool:
        """Whether there is a voice to compare with."""
        return super().fits(sound) and bool(sound.voices)

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The similarities of each."""
        waves = [wave for sound in sounds for wave in (sound.audio, *sound.voices.values())]
        rates = [sound.rate for sound in sounds for _ in range(1 + len(sound.voices))]
        vectors = iter(self.vectors(waves, rates))
        lines = []
        for sound in sounds:
            own = next(vectors)
            lines.append({key: float(own @ next(vectors)) for key in sound.voices})
        return lines

    def vectors(self, waves: Sequence[np.ndarray], rates: Sequence[int]) -> list[np.ndarray]:
        """Recordings (T,) at these rates in Hz -> their voices (D,), of unit length."""
        keys = [hashlib.sha256(wave.tobytes()).hexdigest() for wave in waves]
        new = {key: (wave, rate) for key, wave, rate in zip(keys, waves, rates, strict=True) if key not in self._known}
        heard = [resample(np.asarray(wave, np.float32), rate, RATE) for wave, rate in new.values()]
        self._known.update(zip(new, self.embed(heard), strict=True))
        return [self._known[key] for key in keys]

    def vector(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """One of them."""
        return self.vectors([audio], [rate])[0]

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same, of waves at 16 kHz that were not heard before."""
        raise NotImplementedError


class XVectors(Voice):
    """By x-vectors on WavLM, as published.

    Args:
        source: folder or hub id of a `WavLMForXVector` of transformers.
    """

    def __init__(self, source: str = PUBLISHED_XVECTORS) -> None:
        super().__init__()
        self.source = source

    @property
    def checkpoint(self) -> str:
        """The model, and the program that runs it."""
        return f"{name_of(self.source)}, {version('transformers')}"

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `Voice.embed`."""
        return [vector.numpy() for vector in by_length(self._embed, [self._prepare(wave) for wave in waves])]

    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        extractor, _ = self._models
        return np.asarray(extractor(wave, sampling_rate=RATE).input_values[0], np.float32)

    def _embed(self, waves: Tensor) -> Tensor:
        _, model = self._models
        return torch.nn.functional.normalize(model(waves).embeddings, dim=-1)

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        from transformers import AutoFeatureExtractor, WavLMForXVector

        model = WavLMForXVector.from_pretrained(self.source).eval().to(device())
        return AutoFeatureExtractor.from_pretrained(self.source), model


class Resemblyzer(Voice):
    """By the d-vectors of Resemblyzer, whose weights are in its package."""

    @property
    def checkpoint(self) -> str:
        """The package that the model comes with."""
        return f"{version('Resemblyzer', _INSTALL)} (stand-in for {PUBLISHED_XVECTORS})"

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `Voice.embed`."""
        vectors = []
        for wave in waves:
            preprocess, encoder = self._models
            spoken = preprocess(wave, source_sr=RATE)  # louder, and without pauses
            vectors.append(encoder.embed_utterance(spoken if len(spoken) else wave))
        return vectors

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError:
            raise ImportError(f"voices need Resemblyzer: pip install {_INSTALL}") from None
        return preprocess_wav, VoiceEncoder("cpu", verbose=False)
