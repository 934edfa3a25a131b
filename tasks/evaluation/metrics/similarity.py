"""Speaker similarity: cosine similarity of speaker embeddings. D width, T samples."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .metric import RATE, CachedModel, EvalSample, Metric, Scores, device, name_of, run_by_length, version

PUBLISHED_XVECTORS = "microsoft/wavlm-base-sv"
_INSTALL_RESEMBLYZER = "librosa webrtcvad-wheels; pip install --no-deps resemblyzer"


class SpeakerSimilarity(Metric):
    """Cosine similarity of a sample's voice to each of `EvalSample.voices`, under their names.

    Subclasses implement `embed`.
    """

    name = "voice"

    def __init__(self) -> None:
        self._cached_embed = CachedModel(self.embed)

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a voice to compare with."""
        return super().accepts(sample) and bool(sample.voices)

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the similarity to each voice."""
        waves: list[np.ndarray] = []
        rates: list[int] = []
        for sample in samples:
            waves += [sample.audio, *sample.voices.values()]
            rates += [sample.rate] * (1 + len(sample.voices))
        vectors = iter(self.vectors(waves, rates))
        scores = []
        for sample in samples:
            vector = next(vectors)
            scores.append({name: float(vector @ next(vectors)) for name in sample.voices})
        return scores

    def vectors(self, waves: Sequence[np.ndarray], rates: Sequence[int]) -> list[np.ndarray]:
        """Embed the voices of recordings.

        Args:
            waves: (T,) each.
            rates: Sampling rate of each in Hz.

        Returns:
            (D,) each, of unit length.
        """
        return self._cached_embed(waves, rates)

    def vector(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Embed the voice of one recording (T,). Returns (D,), of unit length."""
        return self.vectors([audio], [rate])[0]

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the embeddings (D,), of unit length, of waves (T,) at 16 kHz."""
        raise NotImplementedError


class XVectors(SpeakerSimilarity):
    """Similarity by WavLM x-vectors (Chen et al., 2022, arXiv 2110.13900), as in the FocalCodec paper.

    Args:
        source: Folder or hub id of a `WavLMForXVector` of transformers.
    """

    def __init__(self, source: str = PUBLISHED_XVECTORS) -> None:
        super().__init__()
        self.source = source

    @property
    def checkpoint(self) -> str:
        """Model and version of transformers."""
        return f"{name_of(self.source)}, {version('transformers')}"

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the embeddings, as in `SpeakerSimilarity.embed`."""
        extractor, _ = self._models
        prepared = []
        for wave in waves:
            prepared.append(np.asarray(extractor(wave, sampling_rate=RATE).input_values[0], np.float32))
        return [vector.numpy() for vector in run_by_length(self._embed_batch, prepared)]

    def _embed_batch(self, waves: Tensor) -> Tensor:
        _, model = self._models
        return torch.nn.functional.normalize(model(waves).embeddings, dim=-1)

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        from transformers import AutoFeatureExtractor, WavLMForXVector

        model = WavLMForXVector.from_pretrained(self.source).eval().to(device())
        return AutoFeatureExtractor.from_pretrained(self.source), model


class Resemblyzer(SpeakerSimilarity):
    """Similarity by Resemblyzer's d-vectors (GE2E, Wan et al., 2018, arXiv 1710.10467).

    Its weights are part of its package, so it needs no network.
    """

    @property
    def checkpoint(self) -> str:
        """The package, and the model that it replaces."""
        return f"{version('Resemblyzer', _INSTALL_RESEMBLYZER)} (stand-in for {PUBLISHED_XVECTORS})"

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the embeddings, as in `SpeakerSimilarity.embed`."""
        vectors = []
        for wave in waves:
            preprocess, encoder = self._models
            # Preprocessing normalizes the loudness and cuts pauses, which may leave nothing.
            speech = preprocess(wave, source_sr=RATE)
            vectors.append(encoder.embed_utterance(speech if len(speech) else wave))
        return vectors

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError:
            raise ImportError(f"voices need Resemblyzer: pip install {_INSTALL_RESEMBLYZER}") from None
        return preprocess_wav, VoiceEncoder("cpu", verbose=False)
