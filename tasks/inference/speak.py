"""Speak a text, at once or chunk by chunk, in a voice of the model or in that of a recording."""

import logging
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np

from ...lm.continuous_batching import ContinuousBatch
from ...lm.generation import CodeChunk, Generation
from ...lm.model import SpeechLM
from ...lm.pieces import aligned_prompts, generate_pieces, join_pieces, stream_pieces
from ...lm.sampling import Sampling, generation_defaults
from ...lm.templates import Prompt, Template
from ...tokenizer.chunk_decoder import ChunkDecoder
from ..definitions import NAMED_VOICE_TASKS, REFERENCE_TASKS, TASKS
from .inputs import encode_ids, join_references, load_waves, open_model
from .result import SpeechResult, speech_results
from .speed import SpeedChange, change_speed
from .timestamps import Timestamp, phoneme_timestamps, word_timestamps

logger = logging.getLogger(__name__)

_MAX_TRANSCRIBED_S = 10.0  # of a reference with a transcript: models are trained on short ones


@overload
def speak(text: str, *args: Any, **kwargs: Any) -> SpeechResult: ...
@overload
def speak(text: list[str], *args: Any, **kwargs: Any) -> list[SpeechResult]: ...
def speak(
    text: str | list[str],
    model: str | Path | SpeechLM = "mini",
    voice: str | None = None,
    reference: Any = None,
    reference_text: str | None = None,
    sampling_rate: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    speed: float = 1.0,
    generator: ContinuousBatch | None = None,
) -> SpeechResult | list[SpeechResult]:
    """Speak a text, or several texts in one batch.

    Args:
        text: A text or a list of texts. A model that aligns text and speech ("tts-aligned") speaks texts of any length,
            piece by piece; for others the positions of the model limit the length.
        model: `"mini"`, a folder that `focallm train tts` wrote, or a loaded `SpeechLM` (load once, speak often).
        voice: A voice that the model was trained on; by default the most frequent one.
        reference: A recording of the voice to speak in, as in `enhance`, for models trained for "zero-shot". Of a long
            one the first seconds are used, unless it has a transcript, with which it may last 10 s.
        reference_text: The transcript of the reference. A model that aligns text and speech ("zero-shot-aligned") does
            not use it.
        sampling_rate: Rate in Hz of a reference that is an array.
        sampling: How tokens are sampled; by default as suits the model.
        seed: Seed of the sampling; the same seed gives the same speech. Greedy sampling, the default of "mini", does
            not depend on it.
        speed: How many times faster than the model would speak, 0.5 to 2; see `SpeedChange`. Other speeds than 1 need a
            model that aligns text and speech.
        generator: A batch of the same model whose steps this call shares with others, in other threads:
            `batch = ContinuousBatch(lm); speak(text, model=lm, generator=batch)`. The speech is the same. The call
            waits for a row, and speaks several texts one after the other.

    Returns:
        Audio (T,). `stop_reason` is "end", or "max_length" if every attempt reached the longest duration that the text
        can have; the result is then the attempt that repeats itself least. `stats` has the number of attempts, "voice",
        and "num_spans_at_max": how many spans (in aligned speech: units) reached their maximum length.

    Raises:
        ValueError: The text is empty, the voice is unknown, a reference is too short, too long or silent or comes
            without its transcript, or the model was trained for other tasks.
    """
    texts = [text] if isinstance(text, str) else text
    check_request(texts, reference, reference_text, speed)
    lm = open_model(model)
    _check_model(lm, generator, speed, by_reference=reference is not None)
    start_time = time.perf_counter()
    voice_values = voice_fields(lm, voice, reference, reference_text, sampling_rate)
    sampling = sampling or default_sampling(lm, by_reference=reference is not None)

    prompts = [speech_prompts(lm, item, voice_values) for item in texts]
    tokenizer = lm.audio_tokenizer
    codes = []
    spoken = []
    stop_reasons = []
    unit_lengths = []
    stats = []
    generate = lm.generate if generator is None else generator.generate
    for speech, num_attempts in generate_pieces(generate, prompts, sampling, [seed] * len(texts)):
        codes.append(speech.codes)
        spoken_codes, spoken_lengths = change_speed(speech.codes, speech.unit_lengths, speed, tokenizer.num_codebooks)
        spoken.append(spoken_codes)
        unit_lengths.append(spoken_lengths)
        stop_reasons.append(speech.stop_reason)
        stats.append({"attempts": num_attempts, "num_spans_at_max": speech.num_spans_at_max})

    audios = tokenizer.batch_decode(spoken)
    results = speech_results(start_time, codes, audios, tokenizer.output_sampling_rate, stop_reasons)
    for i, result in enumerate(results):
        result.stats.update(stats[i], voice=voice_values.get("speaker", "of the reference"))
        result.phonemes.extend(phoneme_timestamps(prompts[i], unit_lengths[i], tokenizer.tokens_per_second))
        result.words.extend(word_timestamps(prompts[i], result.phonemes))
    return results[0] if isinstance(text, str) else results


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
    speed: float = 1.0,
    generator: ContinuousBatch | None = None,
) -> "SpeechStream":
    """Speak a text chunk by chunk: `for chunk in stream_speech("Good morning, everyone."): play(chunk)`.

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
        speed: As in `speak`.
        generator: A batch of the same model whose steps this stream shares with others, in other threads:
            `stream_speech(text, model=lm, generator=batch)`. The first `next` raises a `BatchFullError` if too many
            requests wait. Closing the iterator frees the row.

    Raises:
        ValueError: As in `speak`, or `chunk_s` is not positive.
    """
    check_request([text], reference, reference_text, speed)
    lm = open_model(model)
    _check_model(lm, generator, speed, by_reference=reference is not None)
    voice_values = voice_fields(lm, voice, reference, reference_text, sampling_rate)
    sampling = sampling or default_sampling(lm, by_reference=reference is not None)
    return SpeechStream(lm, speech_prompts(lm, text, voice_values), sampling, seed, chunk_s, speed, generator)


class SpeechStream:
    """Iterates over chunks of audio (T,) float32 at `sampling_rate`; `result` holds the whole audio afterwards.

    With a causal codec the chunks are exactly what decoding at once gives; for others see `tokenizer.chunk_decoder`.
    """

    def __init__(
        self,
        lm: SpeechLM,
        prompts: list[Prompt],
        sampling: Sampling,
        seed: int,
        chunk_s: float,
        speed: float = 1.0,
        generator: ContinuousBatch | None = None,
    ) -> None:
        if chunk_s <= 0:
            raise ValueError(f"chunk_s, the duration of a chunk, must be positive, found {chunk_s}")
        self.sampling_rate = lm.audio_tokenizer.output_sampling_rate
        self._lm = lm
        self._prompts = prompts
        self._sampling = sampling
        self._seed = seed
        self._chunk_s = chunk_s
        self._speed = speed
        self._generator = generator
        self._generations: list[Generation] = []
        self._unit_lengths: list[int] = []
        self._result: SpeechResult | None = None

    def __iter__(self) -> Generator[np.ndarray, None, None]:
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
        self._result.phonemes.extend(self.phonemes)
        self._result.words.extend(self.words)

    @property
    def result(self) -> SpeechResult:
        """The whole audio; `stats` has `time_to_first_audio_s`.

        Raises:
            ValueError: The stream has not been read to its end.
        """
        if self._result is None:
            raise ValueError("the stream has not ended: iterate over it to the end first")
        return self._result

    @property
    def phonemes(self) -> list[Timestamp]:
        """When the phonemes are spoken that were generated so far, which may be ahead of the chunks."""
        return phoneme_timestamps(self._prompts, self._unit_lengths, self._lm.audio_tokenizer.tokens_per_second)

    @property
    def words(self) -> list[Timestamp]:
        """When the words are spoken that were generated so far."""
        return word_timestamps(self._prompts, self.phonemes)

    def _decode_chunks(self) -> Iterator[np.ndarray]:
        """Decode the codes of all prompts as one stream."""
        decoder = ChunkDecoder(self._lm.audio_tokenizer)
        change = None if self._speed == 1 else SpeedChange(self._speed, self._lm.audio_tokenizer.num_codebooks)
        self._unit_lengths = []
        for chunk in self._generate_chunks():
            if change is None:
                codes, unit_lengths = chunk.codes, chunk.unit_lengths
            else:
                codes, unit_lengths = change.push(chunk.codes, chunk.unit_lengths)
            self._unit_lengths += unit_lengths
            yield decoder.push(codes)
        yield decoder.finish()

    def _generate_chunks(self) -> Iterator[CodeChunk]:
        """Generate the codes of one prompt after the other, and keep the finished generations."""
        tokenizer = self._lm.audio_tokenizer
        chunk_frames = max(1, round(self._chunk_s * self._speed * tokenizer.frame_rate))
        chunk_size = chunk_frames * tokenizer.num_codebooks
        if self._generator is None:
            chunks = stream_pieces(self._lm, self._prompts, self._sampling, self._seed, chunk_size)
        else:
            chunks = self._generator.stream(self._prompts, self._sampling, self._seed, chunk_size)
        self._generations = yield from chunks


def _check_model(lm: SpeechLM, generator: ContinuousBatch | None, speed: float, by_reference: bool) -> None:
    """Refuse what does not fit to a model."""
    if generator is not None and generator.lm is not lm:
        raise ValueError("generator is a batch of another model: pass the same one to both, model=generator.lm")
    if speed != 1 and _speech_template(lm, by_reference).target.kind != "aligned":
        raise ValueError(
            f"speed is {speed}, and this model does not know which frames belong to which phoneme, so it speaks at "
            "speed 1 only: use a model that aligns text and speech (focallm train tts-aligned)"
        )


def check_request(
    texts: list[str], reference: Any = None, reference_text: str | None = None, speed: float = 1.0
) -> None:
    """Find mistakes in what `speak` gets before a model is loaded.

    Raises:
        ValueError: There is no text, an empty one, or the transcript of a reference that is missing; or the speed is
            not between 0.5 and 2.
    """
    if not 0.5 <= speed <= 2:
        raise ValueError(f"speed lies between 0.5 (half as fast) and 2 (twice as fast), found {speed}")
    if not texts:
        raise ValueError("speak needs at least one text, found none")
    for text in texts:
        if not text.strip():
            raise ValueError("the text is empty: give at least one word")
    if reference is None and reference_text is not None:
        raise ValueError(
            "reference_text (--reference-text) is the transcript of a recording: pass that, too, as reference "
            "(--reference), or leave out both"
        )


def voice_fields(
    lm: SpeechLM, voice: str | None, reference: Any, reference_text: str | None, sampling_rate: int | None
) -> dict[str, Any]:
    """Return the values of the template fields that choose the voice; arguments and errors are those of `speak`."""
    has_pace = lm.info.length_window is not None
    needs_reference = can_speak_as(lm, by_reference=True) and not can_speak_as(lm, by_reference=False)
    if has_pace and needs_reference and reference is None:
        raise ValueError(
            "this model has no voices of its own and speaks in that of a recording: pass a recording as reference, on "
            "the command line with --reference"
        )
    template = _speech_template(lm, reference is not None)
    if not has_pace or not (lm.info.voices or reference is not None):
        raise ValueError(
            "this model was not trained to speak (it has no voice or no pace): train one with focallm train tts"
        )
    if reference is None:
        if voice is not None and voice not in lm.info.voices:
            raise ValueError(f"no voice is called {voice!r}: this model knows {', '.join(lm.info.voices) or 'none'}")
        # The voices are in the order of their frequency in the training data.
        return {"speaker": voice or lm.info.voices[0]}

    if voice is not None:
        raise ValueError("voice and reference exclude each other: pass only one of them")
    uses_text = "reference_text" in template.fields
    if uses_text and not (reference_text or "").strip():
        raise ValueError("with this model, a reference needs reference_text: pass its transcript")
    tokenizer = lm.audio_tokenizer
    waves = load_waves(reference, sampling_rate, tokenizer)
    if len(waves) != 1:
        raise ValueError(f"speak takes one reference, found {len(waves)}: call it once for each voice")
    if uses_text:
        seconds = len(waves[0]) / tokenizer.sampling_rate
        if seconds > _MAX_TRANSCRIBED_S:
            raise ValueError(
                f"the reference lasts {seconds:.1f} s: one with a transcript cannot be cut, so give a recording of at "
                f"most {_MAX_TRANSCRIBED_S:g} s and what is said in it"
            )
        voice_wave = join_references(waves, tokenizer.sampling_rate, _MAX_TRANSCRIBED_S)
        return {"reference_text": reference_text, "reference_codes": encode_ids(tokenizer, [voice_wave])[0]}
    # The model was trained on references that were cut to the same duration.
    max_s = TASKS["zero-shot-aligned"].max_reference_s
    voice_wave = join_references(waves, tokenizer.sampling_rate, max_s)
    return {"reference_codes": encode_ids(tokenizer, [voice_wave])[0]}


def speech_prompts(lm: SpeechLM, text: str, voice_values: dict[str, Any]) -> list[Prompt]:
    """Return the prompts of a text, with the range of lengths that its speech may have.

    Args:
        lm: The model.
        text: The text.
        voice_values: From `voice_fields`.

    Returns:
        One prompt; or several, in order, for a long text and a model that aligns text and speech.

    Raises:
        ValueError: The model can spell nothing of the text.
    """
    template = _speech_template(lm, "speaker" not in voice_values)
    if template.target.kind == "aligned":
        return aligned_prompts(lm, template, text, **voice_values)

    _check_spelling(lm, text)
    window = lm.info.length_window
    assert window is not None  # voice_fields() has checked it
    length = window.tokens(len(text), lm.audio_tokenizer.tokens_per_second)
    return [template.prompt(lm.vocabulary, length, text=text, **voice_values)]


def can_speak_as(lm: SpeechLM, by_reference: bool) -> bool:
    """Return whether a model can speak in the voice of a reference, or else in named voices."""
    names = REFERENCE_TASKS if by_reference else NAMED_VOICE_TASKS
    is_trained = any(template.name in names for template in lm.info.templates)
    return is_trained and (by_reference or bool(lm.info.voices))


def default_sampling(lm: SpeechLM, by_reference: bool) -> Sampling:
    """Return how `speak` samples tokens by default."""
    return generation_defaults(_speech_template(lm, by_reference), lm.code_bits)


def _speech_template(lm: SpeechLM, by_reference: bool) -> Template:
    """Return the template with which a model speaks; one that aligns text and speech if the model has it."""
    return lm.info.template(*(REFERENCE_TASKS if by_reference else NAMED_VOICE_TASKS))


def _check_spelling(lm: SpeechLM, text: str) -> None:
    """Warn about characters that the vocabulary cannot spell, and raise a ValueError if most letters are of these."""
    unknown = lm.vocabulary.unknown_characters(text)
    if not unknown:
        return
    letters = list(filter(str.isalnum, text))
    num_known = sum(letter not in unknown for letter in letters)
    # Halves of surrogate pairs cannot be printed.
    characters = " ".join(unknown[:30]).encode("utf-8", "backslashreplace").decode()
    if 2 * num_known <= len(letters):
        raise ValueError(f"the model's vocabulary cannot spell {characters}: write the text in letters that it knows")
    logger.warning("the model cannot spell %s and leaves it out: write it out in letters", characters)
