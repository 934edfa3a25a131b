"""Measure the generation speed of a language model on this machine, beside `transformers.generate`.

B batch, L length of a prompt.
"""

from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ...lm.decoding import is_llama_shaped
from ...lm.features import language_model
from ...lm.generation import generate
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...lm.templates import Phase, Prompt
from .record import make_record, make_row, take_turns

_REPEATS = 5
_PROMPT_LENGTH = 40  # ids, as many as a sentence has characters


class _OnlyCodes(LogitsProcessor):
    """Restrict `transformers.generate` to audio codes by adding a mask to the scores."""

    def __init__(self, lm: SpeechLM) -> None:
        num_rows = language_model(lm.model).get_input_embeddings().weight.shape[0]
        first = lm.vocabulary.audio_offset
        self.mask = torch.full((num_rows,), -torch.inf, device=lm.device)
        self.mask[first : first + lm.vocabulary.audio_vocab_size] = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.mask


def benchmark_lm(model: str | SpeechLM, batch: int, tokens: int, threads: int) -> dict[str, Any]:
    """Compare greedy generation with `transformers.generate`, and with one prompt after the other.

    Args:
        model: "mini", a folder, a hub id, or a loaded model.
        batch: B, prompts at once.
        tokens: codes to generate for each prompt.
        threads: CPU threads.

    Returns:
        A record, see `make_record`, with rows for one prompt and for all. It also has "tokens_per_second" of all, and
        "same_tokens": for how many prompts every way agrees.

    Raises:
        ValueError: The model has several codebooks, for which transformers has no constraint, or a number is below 1.
    """
    for name, number in (("batch", batch), ("tokens", tokens), ("threads", threads)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, found {number}")
    torch.set_num_threads(threads)
    lm = model if isinstance(model, SpeechLM) else SpeechLM.from_pretrained(model)
    if len(lm.vocabulary.codebook_sizes) > 1:
        raise ValueError("several codebooks cannot be compared: transformers does not take turns between them")
    generator = torch.Generator().manual_seed(0)
    first = lm.vocabulary.audio_offset
    prompts = torch.randint(first, first + lm.vocabulary.audio_vocab_size, (batch, _PROMPT_LENGTH), generator=generator)

    rows = []
    is_same = torch.ones(batch, dtype=torch.bool)
    for size in sorted({1, batch}):
        expected = _generate(lm, prompts[:size], tokens)
        for name, rival in _RIVALS.items():
            if size == 1 and rival is _generate_one_by_one:
                continue
            is_same[:size] &= (rival(lm, prompts[:size], tokens) == expected).all(dim=1)
            our_seconds, their_seconds = take_turns(
                partial(_generate, lm, prompts[:size], tokens), partial(rival, lm, prompts[:size], tokens), _REPEATS
            )
            rows.append(make_row(f"{size} x {tokens} codes", our_seconds, name, their_seconds))

    step = "written-out step" if is_llama_shaped(language_model(lm.model)) else "the model's own forward"
    title = f"Greedy generation, {lm.model.num_parameters() / 1e6:.1f} M parameters on {lm.device.type}, {step}"
    tokens_per_second = round(batch * tokens / rows[-1].seconds)
    return make_record(
        title, threads, rows, tokens_per_second=tokens_per_second, same_tokens=f"{int(is_same.sum())} of {batch}"
    )


def _generate(lm: SpeechLM, prompts: torch.Tensor, tokens: int) -> torch.Tensor:
    """Continue prompts (B, L) by `lm.generation.generate`, and return the new ids (B, tokens)."""
    phases = (Phase("codes", tokens, tokens, lm.vocabulary.control("end")),)
    lm_prompts = [Prompt(ids, phases) for ids in prompts.tolist()]
    # Not `lm.generate`, which refuses codes without phonemes for models that speak phoneme by phoneme.
    generations = generate(lm.model, lm.vocabulary, lm_prompts, Sampling(temperature=0), [0] * len(lm_prompts))
    return torch.stack([generation.codes for generation in generations]) + lm.vocabulary.audio_offset


def _generate_with_transformers(lm: SpeechLM, prompts: torch.Tensor, tokens: int) -> torch.Tensor:
    """Continue prompts (B, L) by `transformers.generate`, and return the new ids (B, tokens)."""
    model = language_model(lm.model)
    ids = prompts.to(lm.device)
    only_codes = LogitsProcessorList([_OnlyCodes(lm)])
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=lm.vocabulary.control("pad"))
    generated = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
        ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=only_codes
    )
    return generated[:, ids.shape[1] :].cpu()


def _generate_one_by_one(lm: SpeechLM, prompts: torch.Tensor, tokens: int) -> torch.Tensor:
    """Do what `_generate` does, with one prompt after the other."""
    return torch.cat([_generate(lm, prompt[None], tokens) for prompt in prompts])


_RIVALS = {"transformers.generate": _generate_with_transformers, "focallm, one by one": _generate_one_by_one}
