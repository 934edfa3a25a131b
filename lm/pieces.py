"""Speech in pieces: models learn from short recordings, so they speak a long text piece by piece."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from ..data.phonemes import split_units, starts_word
from .constraints import StopReason
from .generation import CodeChunk, Generation, stream
from .model import SpeechLM
from .sampling import Sampling, generation_defaults
from .templates import MAX_REFERENCE_S, Prompt, Template

Generate = Callable[..., list[Generation]]

MAX_UNITS = 120  # in a piece, about ten seconds
RETRIES = 2  # further attempts at a piece that did not end
# Distance between the seeds of two attempts, so that calls with neighboring seeds share none.
_SEED_STEP = 1 << 20


def aligned_prompts(lm: SpeechLM, template: Template, text: str, **inputs: Any) -> list[Prompt]:
    """Return the prompts of a text for a template that aligns text and speech, one for each piece.

    Args:
        lm: the model.
        template: the template.
        text: the text.
        inputs: values of the input segments, by field. A reference is cut to the duration of those in training.

    Raises:
        ValueError: the text has no word, or one that the model cannot spell.
    """
    max_reference = round(MAX_REFERENCE_S * lm.audio_tokenizer.tokens_per_second)
    for segment in template.segments[:-1]:
        if segment.control == "reference" and segment.kind == "codes":
            inputs[segment.field] = inputs[segment.field][:max_reference]
    units, words = lm.read(text)
    prompts = []
    for piece in split_units(units, MAX_UNITS):
        prompt = template.prompt(lm.vocabulary, lm.unit_window(), units=piece, **inputs)
        num_words = sum(map(starts_word, piece))
        prompts.append(replace(prompt, words=tuple(words[:num_words])))
        words = words[num_words:]
    return prompts


def generate_pieces(
    generate: Generate, prompts_of_texts: Sequence[list[Prompt]], sampling: Sampling, seeds: Sequence[int]
) -> list[tuple[Generation, int]]:
    """Speak several texts in one batch, and retry pieces that did not end with other seeds.

    Args:
        generate: the method of the model, or of a `ContinuousBatch`.
        prompts_of_texts: the pieces of each text.
        sampling: how ids are sampled.
        seeds: of each text.

    Returns:
        The speech of each text, made of the best attempt at each of its pieces, and the highest number of attempts.
    """
    prompts: list[Prompt] = []
    piece_seeds: list[int] = []
    for text_prompts, seed in zip(prompts_of_texts, seeds, strict=True):
        prompts += text_prompts
        piece_seeds += [seed] * len(text_prompts)
    attempts = iter(_generate_with_retries(generate, prompts, sampling, piece_seeds))
    speeches = []
    for text_prompts in prompts_of_texts:
        best_attempts = []
        max_attempts = 0
        for _ in text_prompts:
            piece_attempts = next(attempts)
            best_attempts.append(max(piece_attempts, key=_quality))
            max_attempts = max(max_attempts, len(piece_attempts))
        speeches.append((join_pieces(best_attempts), max_attempts))
    return speeches


def stream_pieces(
    lm: SpeechLM, prompts: Sequence[Prompt], sampling: Sampling, seed: int, chunk: int
) -> Generator[CodeChunk, None, list[Generation]]:
    """Generate the pieces of a text one after the other, and yield their codes as they are written.

    Args:
        lm: the model.
        prompts: the pieces.
        sampling: how ids are sampled.
        seed: of each piece.
        chunk: number of codes to yield at a time; the last chunk of a piece may be smaller.

    Returns:
        A generator of chunks, whose return value has the generation of each piece.
    """
    generations = []
    for prompt in lm.check_prompts(prompts, sampling):
        generation = yield from stream(lm.model, lm.vocabulary, prompt, sampling, seed, chunk)
        generations.append(generation)
    return generations


def join_pieces(pieces: Sequence[Generation]) -> Generation:
    """Join the pieces of a text to one generation, which stopped at "max_length" if one of them did."""
    codes = []
    stop_reason: StopReason = "end"
    num_spans_at_max = 0
    unit_lengths: list[int] = []
    for piece in pieces:
        codes.append(piece.codes)
        num_spans_at_max += piece.num_spans_at_max
        if piece.stop_reason == "max_length":
            stop_reason = "max_length"
        unit_lengths += piece.unit_lengths
    return Generation((torch.cat(codes),), stop_reason, num_spans_at_max, tuple(unit_lengths))


def _quality(attempt: Generation) -> tuple[bool, int]:
    """Rank attempts: one that ended is better, and among those that did not, the one that repeats itself least."""
    return attempt.stop_reason != "max_length", len(attempt.codes.unique())


def _generate_with_retries(
    generate: Generate, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
) -> list[list[Generation]]:
    """Return all attempts at each prompt."""
    attempts: list[list[Generation]] = [[] for _ in prompts]
    # Greedy sampling would repeat the same attempt.
    num_attempts = 1 if sampling.temperature == 0 else 1 + RETRIES
    unfinished = list(range(len(prompts)))
    for attempt in range(num_attempts):
        if not unfinished:
            break
        attempt_seeds = [seeds[i] + attempt * _SEED_STEP for i in unfinished]
        generations = generate([prompts[i] for i in unfinished], sampling=sampling, seed=attempt_seeds)
        still_unfinished = []
        for i, generation in zip(unfinished, generations, strict=True):
            attempts[i].append(generation)
            if generation.stop_reason == "max_length":
                still_unfinished.append(i)
        unfinished = still_unfinished
    return attempts


class AlignedGeneration:
    """Writes aligned speech, as the `custom_generate` of `generate` in transformers. The result equals that of `speak`.

    Each phoneme has a minimum and a maximum length, so options such as `max_new_tokens` and `temperature` do not apply.
    Instead `generate` then takes `sampling` and `seed`.

    Args:
        make_lm: makes the speech LM from the model of transformers.
        template: whose target is aligned.
        rows: for each item its text and the values of the input segments, by field.
    """

    def __init__(
        self, make_lm: Callable[[PreTrainedModel], SpeechLM], template: Template, rows: list[dict[str, Any]]
    ) -> None:
        self._make_lm = make_lm
        self._template = template
        self._rows = rows

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        generation_config: GenerationConfig,
        sampling: Sampling | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Return the prompts, each followed by the codes of its speech and the end token (B, L), padded on the right.

        Args:
            model: of transformers.
            input_ids: (B, L) prompts.
            generation_config: says whether to return a dictionary.
            sampling: how ids are sampled; by default as suits the template.
            seed: of the sampling.
            kwargs: what other modes of generation need.
        """
        lm = self._make_lm(model)
        # With num_return_sequences, each prompt comes several times.
        copies = len(input_ids) // len(self._rows)
        prompts = []
        seeds = []
        for i in range(len(input_ids)):
            prompts.append(aligned_prompts(lm, self._template, **self._rows[i // copies]))
            seeds.append(seed + i % copies)
        sampling = sampling or generation_defaults(self._template, lm.code_bits)
        speeches = generate_pieces(lm.generate, prompts, sampling, seeds)
        sequences = []
        for prompt_ids, (speech, _) in zip(input_ids, speeches, strict=True):
            new_ids = [*lm.vocabulary.audio_ids(speech.codes.tolist()), lm.vocabulary.control("end")]
            sequences.append(torch.cat([prompt_ids, torch.tensor(new_ids, device=prompt_ids.device)]))
        padded = pad_sequence(sequences, batch_first=True, padding_value=lm.vocabulary.control("pad"))
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=padded)  # type: ignore[arg-type]  # a gap in the stubs
        return padded
