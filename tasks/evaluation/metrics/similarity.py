"""Speaker similarity: cosine similarity of speaker embeddings. D width, T samples."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .metric import RATE, CachedModel, EvalSample, Metric, Scores, device, name_of, run_by_length, version

PUBLISHED_XVECTORS = "microsoft/wavlm-base-sv"
_X_VECTOR_SAMPLES = 4880  # samples at 16 kHz that the layers of the x-vectors need for one output
_INSTALL_RESEMBLYZER = "librosa webrtcvad-wheels; pip install --no-deps resemblyzer"
# For the record: the score of an output without sound.
_SILENCE = "silence scores 0"


class SpeakerSimilarity(Metric):
    """Cosine similarity of a sample's voice to each of `EvalSample.voices`, under their names.

    Silence has a similarity of 0 to every voice; the similarity to a silent recording is undefined.

    Subclasses implement `embed` and `width`.
    """

    name = "voice"

    def __init__(self) -> None:
        self._cached_embed = CachedModel(self.embed)

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a voice to compare with."""
        return bool(sample.voices)

    def expected(self, sample: EvalSample) -> Sequence[str]:
        """Return the names of the voices."""
        return list(sample.voices)

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the similarity to each voice."""
        waves: list[np.ndarray] = []
        rates: list[int] = []
        for sample in samples:
            waves += [sample.audio, *sample.voices.values()]
            rates += [sample.rate] * (1 + len(sample.voices))
        vectors = iter(self.vectors(waves, rates))
        scores: list[Scores] = []
        for sample in samples:
            vector = next(vectors)
            similarities: Scores = {}
            for name in sample.voices:
                voice = next(vectors)
                if np.any(voice):
                    similarities[name] = float(vector @ voice)
            scores.append(similarities)
        return scores

    def vectors(self, waves: Sequence[np.ndarray], rates: Sequence[int]) -> list[np.ndarray]:
        """Embed the voices of recordings.

        Args:
            waves: (T,) each.
            rates: Sampling rate of each in Hz.

        Returns:
            (D,) each, of unit length; zeros for a wave without sound.
        """
        vectors = []
        for vector in self._cached_embed(waves, rates):
            vectors.append(np.zeros(self.width, np.float32) if vector is None else vector)
        return vectors

    def vector(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Embed the voice of one recording (T,). Returns (D,), of unit length; zeros if it has no sound."""
        return self.vectors([audio], [rate])[0]

    @property
    def width(self) -> int:
        """The width D of the embeddings."""
        raise NotImplementedError

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
        return f"{name_of(self.source)}, {version('transformers')}; {_SILENCE}"

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        _, model = self._models
        return int(model.config.xvector_output_dim)

    def load(self) -> None:
        """Load the model."""
        _ = self._models

    def embed(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the embeddings, as in `SpeakerSimilarity.embed`."""
        extractor, _ = self._models
        prepared = []
        for wave in waves:
            # A short wave is repeated.
            repeated = np.resize(wave, max(len(wave), _X_VECTOR_SAMPLES))
            prepared.append(np.asarray(extractor(repeated, sampling_rate=RATE).input_values[0], np.float32))
        return [vector.numpy() for vector in run_by_length(self._embed_batch, prepared)]

    def _embed_batch(self, waves: Tensor) -> Tensor:
        _, model = self._models
        return torch.nn.functional.normalize(model(waves).embeddings, dim=-1)

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        from transformers import AutoFeatureExtractor, WavLMForXVector

        model = WavLMForXVector.from_pretrained(self.source).eval().to(device())
        return AutoFeatureExtractor.from_pretrained(self.source, trust_remote_code=False), model


class Resemblyzer(SpeakerSimilarity):
    """Similarity by Resemblyzer's d-vectors (GE2E, Wan et al., 2018, arXiv 1710.10467).

    Its weights are part of its package, so it needs no network.
    """

    @property
    def checkpoint(self) -> str:
        """The package, and the model that it replaces."""
        return f"{version('Resemblyzer', _INSTALL_RESEMBLYZER)} (stand-in for {PUBLISHED_XVECTORS}); {_SILENCE}"

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return 256

    def load(self) -> None:
        """Load the model.

        Raises:
            ImportError: Resemblyzer is not installed.
        """
        _ = self._models

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
