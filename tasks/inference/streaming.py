"""Speech that is heard while it is written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...lm import Generation, Sampling, SpeechLM
from ...lm.templates import Prompt
from ...tokenizer.chunk_decoder import ChunkDecoder
from .inputs import open_model
from .result import SpeechResult, measure
from .tts import speech_prompts, stop_reason, usual_speech, voice_fields


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
    """Read a text aloud, piece by piece: `for piece in stream_speech("Hello."): play(piece)`.

    What was heard cannot be taken back, so there is no second attempt as in `speak`.

    Args:
        chunk_s: sound in a piece; smaller ones come sooner and cost more. Others as in `speak`.

    Raises:
        ValueError: as `speak`.
    """
    lm = open_model(model)
    fields = voice_fields(lm, voice, reference, reference_text, sampling_rate)
    sampling = sampling or usual_speech(lm, by_reference=reference is not None)
    return SpeechStream(lm, speech_prompts(lm, text, fields), sampling, seed, chunk_s)


class SpeechStream:
    """Iterates over pieces of sound (T,) float32 at `sampling_rate`; afterwards `result` holds all of it.

    How the pieces differ from decoding at once is said in `tokenizer.chunks`: not at all with a causal codec.
    """

    def __init__(
        self, lm: SpeechLM, prompts: list[Prompt], sampling: Sampling | None, seed: int, chunk_s: float
    ) -> None:
        if chunk_s <= 0:
            raise ValueError(f"chunk_s is the duration of a piece, found {chunk_s}")
        self.sampling_rate = lm.audio_tokenizer.output_sampling_rate
        self._lm, self._prompts, self._sampling, self._seed, self._chunk_s = lm, prompts, sampling, seed, chunk_s
        self._generations: list[Generation] = []
        self._result: SpeechResult | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        pieces: list[np.ndarray] = []
        began = time.perf_counter()
        first = began
        for piece in self._sound():
            if len(piece):
                first = first if pieces else time.perf_counter()
                pieces.append(piece)
                yield piece
        audio = np.concatenate(pieces)
        tokens = sum(len(generation.codes) for generation in self._generations)
        (stats,) = measure(began, [tokens], [len(audio) / self.sampling_rate])
        stats["time_to_first_audio_s"] = first - began
        self._result = SpeechResult(audio, self.sampling_rate, stop_reason(self._generations), stats)

    @property
    def result(self) -> SpeechResult:
        """Everything that was heard; `stats` has `time_to_first_audio_s`.

        Raises:
            ValueError: there is more to hear.
        """
        if self._result is None:
            raise ValueError("the stream has not ended: iterate over it to the end first")
        return self._result

    def _sound(self) -> Iterator[np.ndarray]:
        tokenizer = self._lm.audio_tokenizer
        decoder = ChunkDecoder(tokenizer)
        for ids in self._codes(max(1, round(self._chunk_s * tokenizer.frame_rate)) * tokenizer.num_codebooks):
            yield decoder.push(ids)
        yield decoder.finish()

    def _codes(self, chunk: int) -> Iterator[list[int]]:
        self._generations = []
        for prompt in self._prompts:
            stream = self._lm.stream(prompt, sampling=self._sampling, seed=self._seed, chunk=chunk)
            self._generations.append((yield from stream))
