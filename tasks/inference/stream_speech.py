"""Speak a text while it is generated, chunk by chunk."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...lm.generation import Generation
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...lm.templates import Prompt
from ...tokenizer.chunk_decoder import ChunkDecoder
from .inputs import open_model
from .result import SpeechResult, speech_results
from .speak import default_sampling, join_pieces, speech_prompts, voice_fields


def stream_speech(
    text: str,
    model: str | Path | SpeechLM = "mini",
    voice: str | None = None,
    reference: Any = None,
    reference_text: str | None = None,
    sampling_rate: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    chunk_s: float = 0.25,
) -> "SpeechStream":
    """Speak a text chunk by chunk: `for chunk in stream_speech("Hello."): play(chunk)`.

    Audio that was played cannot be taken back, so there are no further attempts as in `speak`.

    Args:
        text: The text.
        model: As in `speak`.
        voice: As in `speak`.
        reference: As in `speak`.
        reference_text: As in `speak`.
        sampling_rate: As in `speak`.
        sampling: As in `speak`.
        seed: As in `speak`.
        chunk_s: Duration of a chunk in seconds. Shorter chunks come sooner and cost more time in all.

    Raises:
        ValueError: As in `speak`, or `chunk_s` is not positive.
    """
    lm = open_model(model)
    voice_values = voice_fields(lm, voice, reference, reference_text, sampling_rate)
    sampling = sampling or default_sampling(lm, by_reference=reference is not None)
    return SpeechStream(lm, speech_prompts(lm, text, voice_values), sampling, seed, chunk_s)


class SpeechStream:
    """Iterates over chunks of audio (T,) float32 at `sampling_rate`; `result` holds the whole audio afterwards.

    With a causal codec the chunks are exactly what decoding at once gives; for others see `tokenizer.chunk_decoder`.
    """

    def __init__(self, lm: SpeechLM, prompts: list[Prompt], sampling: Sampling, seed: int, chunk_s: float) -> None:
        if chunk_s <= 0:
            raise ValueError(f"chunk_s, the duration of a chunk, must be positive, found {chunk_s}")
        self.sampling_rate = lm.audio_tokenizer.output_sampling_rate
        self._lm = lm
        self._prompts = prompts
        self._sampling = sampling
        self._seed = seed
        self._chunk_s = chunk_s
        self._generations: list[Generation] = []
        self._result: SpeechResult | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        chunks: list[np.ndarray] = []
        start_time = time.perf_counter()
        first_audio_time = start_time
        for chunk in self._decode_chunks():
            # A codec that is not causal holds back the first frames, which depend on later ones.
            if len(chunk) == 0:
                continue
            if not chunks:
                first_audio_time = time.perf_counter()
            chunks.append(chunk)
            yield chunk
        audio = np.concatenate(chunks)
        speech = join_pieces(self._generations)
        results = speech_results(start_time, [speech.codes], [audio], self.sampling_rate, [speech.stop_reason])
        self._result = results[0]
        self._result.stats["num_spans_at_max"] = speech.num_spans_at_max
        self._result.stats["time_to_first_audio_s"] = first_audio_time - start_time

    @property
    def result(self) -> SpeechResult:
        """The whole audio; `stats` has `time_to_first_audio_s`.

        Raises:
            ValueError: The stream has not been read to its end.
        """
        if self._result is None:
            raise ValueError("the stream has not ended: iterate over it to the end first")
        return self._result

    def _decode_chunks(self) -> Iterator[np.ndarray]:
        """Decode the codes of all prompts as one stream."""
        decoder = ChunkDecoder(self._lm.audio_tokenizer)
        for ids in self._generate_chunks():
            yield decoder.push(ids)
        yield decoder.finish()

    def _generate_chunks(self) -> Iterator[list[int]]:
        """Generate the codes of one prompt after the other, and keep the finished generations."""
        tokenizer = self._lm.audio_tokenizer
        chunk_frames = max(1, round(self._chunk_s * tokenizer.frame_rate))
        chunk_size = chunk_frames * tokenizer.num_codebooks
        self._generations = []
        for prompt in self._prompts:
            generation = yield from self._lm.stream(prompt, sampling=self._sampling, seed=self._seed, chunk=chunk_size)
            self._generations.append(generation)
