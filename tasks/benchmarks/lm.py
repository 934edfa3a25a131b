"""Measure the generation speed of a language model on this machine, beside `transformers.generate`.

B batch, L length of a prompt.
"""

import statistics
import time

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ...lm.decoding import is_llama_shaped
from ...lm.features import language_model
from ...lm.generation import generate
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...lm.templates import Phase, Prompt

_REPEATS = 7
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


def benchmark_lm(model: str | SpeechLM, batch: int, tokens: int, threads: int) -> str:
    """Return a Markdown table of tokens per second with greedy decoding.

    Args:
        model: "mini", a folder, a hub id, or a loaded model.
        batch: B, prompts at once.
        tokens: codes to generate for each prompt.
        threads: CPU threads.

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

    # Both generate in turn, so that other load on the machine affects both equally.
    our_times = []
    their_times = []
    ratios = []
    for i in range(1 + _REPEATS):
        our_seconds, our_ids = _generate(lm, prompts, tokens)
        their_seconds, their_ids = _generate_with_transformers(lm, prompts, tokens)
        # The first repeat is a warm-up.
        if i > 0:
            our_times.append(our_seconds)
            their_times.append(their_seconds)
            ratios.append(their_seconds / our_seconds)
    num_equal = int((our_ids == their_ids).all(dim=1).sum())

    kind = "written-out step" if is_llama_shaped(language_model(lm.model)) else "the model's own forward"
    lines = [
        f"{lm.model.num_parameters() / 1e6:.1f} M parameters, {lm.device}, {threads} threads, batch {batch}, {tokens} "
        f"codes each, greedy, {kind}; {_REPEATS} repeats in turn",
        "",
        "| | tokens/s, median | best |",
        "|---|---|---|",
    ]
    for name, times in (("transformers.generate", their_times), ("focallm", our_times)):
        median = batch * tokens / statistics.median(times)
        best = batch * tokens / min(times)
        lines.append(f"| {name} | {median:.0f} | {best:.0f} |")
    lines += [
        "",
        f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}; "
        f"same tokens: {num_equal} of {batch} items",
    ]
    return "\n".join(lines)


def _generate(lm: SpeechLM, prompts: torch.Tensor, tokens: int) -> tuple[float, torch.Tensor]:
    """Return the seconds that `lm.generation.generate` takes for prompts (B, L), and the new ids (B, tokens)."""
    phases = (Phase("codes", tokens, tokens, lm.vocabulary.control("end")),)
    lm_prompts = [Prompt(ids, phases) for ids in prompts.tolist()]
    start = time.perf_counter()
    # Not `lm.generate`, which refuses codes without phonemes for models that speak phoneme by phoneme.
    generations = generate(lm.model, lm.vocabulary, lm_prompts, Sampling(temperature=0), [0] * len(lm_prompts))
    seconds = time.perf_counter() - start
    return seconds, torch.stack([generation.codes for generation in generations]) + lm.vocabulary.audio_offset


def _generate_with_transformers(lm: SpeechLM, prompts: torch.Tensor, tokens: int) -> tuple[float, torch.Tensor]:
    """Return the seconds that `transformers.generate` takes for prompts (B, L), and the new ids (B, tokens)."""
    model = language_model(lm.model)
    ids = prompts.to(lm.device)
    only_codes = LogitsProcessorList([_OnlyCodes(lm)])
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=lm.vocabulary.control("pad"))
    start = time.perf_counter()
    generated = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
        ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=only_codes
    )
    seconds = time.perf_counter() - start
    return seconds, generated[:, ids.shape[1] :].cpu()
