"""Speech that is heard while it is written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..lm import Generation, Sampling, SpeechLM
from ..lm.template import Prompt
from ..tokenizer.chunks import ChunkDecoder
from .inputs import open_model
from .result import SpeechResult, measure
from .tts import speech_prompt, voice_fields


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
    return SpeechStream(lm, speech_prompt(lm, text, fields), sampling, seed, chunk_s)


class SpeechStream:
    """Iterates over pieces of sound (T,) float32 at `sampling_rate`; afterwards `result` holds all of it.

    How the pieces differ from decoding at once is said in `tokenizer.chunks`: not at all with a causal codec.
    """

    def __init__(self, lm: SpeechLM, prompt: Prompt, sampling: Sampling | None, seed: int, chunk_s: float) -> None:
        if chunk_s <= 0:
            raise ValueError(f"chunk_s is the duration of a piece, found {chunk_s}")
        self.sampling_rate = lm.audio_tokenizer.output_sampling_rate
        self._lm, self._prompt, self._sampling, self._seed, self._chunk_s = lm, prompt, sampling, seed, chunk_s
        self._generation: Generation | None = None
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
        generation = self._generation
        assert generation is not None
        audio = np.concatenate(pieces)
        (stats,) = measure(began, [len(generation.codes)], [len(audio) / self.sampling_rate])
        stats["time_to_first_audio_s"] = first - began
        self._result = SpeechResult(audio, self.sampling_rate, generation.stop_reason, stats)

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
        self._generation = yield from self._lm.stream(
            self._prompt, sampling=self._sampling, seed=self._seed, chunk=chunk
        )
