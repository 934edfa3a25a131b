"""Speed of writing with a language model, side by side with `transformers.generate`, on this machine."""

import statistics
import time

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ...lm import Sampling, SpeechLM
from ...lm.decoding import is_llama_shaped
from ...lm.features import language_model
from ...lm.templates import Phase, Prompt

_REPEATS = 7
_PROMPT = 40  # ids, about a sentence in characters


class _OnlyCodes(LogitsProcessor):
    """What transformers needs to write codes only: one addition."""

    def __init__(self, lm: SpeechLM) -> None:
        rows = language_model(lm.model).get_input_embeddings().weight.shape[0]
        first = lm.vocabulary.audio_offset
        self.mask = torch.full((rows,), -torch.inf, device=lm.device)
        self.mask[first : first + lm.vocabulary.audio_vocab_size] = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.mask


def benchmark_lm(model: str | SpeechLM, batch: int, tokens: int, threads: int) -> str:
    """A Markdown table of tokens per second, greedily; both write in turn, so that other work disturbs both alike.

    Args:
        model: "mini", a folder or a hub id.
        batch: items at once.
        tokens: codes to write for each.
        threads: CPU threads.

    Raises:
        ValueError: a model with several codebooks, for which transformers has no constraint, or too many tokens.
    """
    torch.set_num_threads(threads)
    lm = model if isinstance(model, SpeechLM) else SpeechLM.from_pretrained(model)
    if len(lm.vocabulary.codebook_sizes) > 1:
        raise ValueError("several codebooks cannot be compared: transformers does not take turns between them")
    generator = torch.Generator().manual_seed(0)
    first = lm.vocabulary.audio_offset
    ids = torch.randint(first, first + lm.vocabulary.audio_vocab_size, (batch, _PROMPT), generator=generator)
    ours, theirs, alike = [], [], 0
    for _ in range(1 + _REPEATS):  # the first is a rehearsal
        seconds, written = _ours(lm, ids, tokens)
        ours.append(seconds)
        seconds, expected = _theirs(lm, ids, tokens)
        theirs.append(seconds)
        alike = sum(int((a != b).any()) == 0 for a, b in zip(written, expected, strict=True))
    ratios = [b / a for a, b in zip(ours[1:], theirs[1:], strict=True)]
    kind = "written-out step" if is_llama_shaped(language_model(lm.model)) else "the model's own forward"
    lines = [
        f"{lm.model.num_parameters() / 1e6:.1f} M parameters, {lm.device}, {threads} threads, batch {batch}, {tokens} "
        f"codes each, greedy, {kind}; {_REPEATS} repeats in turn",
        "",
        "| | tokens/s, median | best |",
        "|---|---|---|",
    ]
    for name, times in (("transformers.generate", theirs[1:]), ("focallm", ours[1:])):
        rate = [batch * tokens / seconds for seconds in times]
        lines.append(f"| {name} | {statistics.median(rate):.0f} | {max(rate):.0f} |")
    return "\n".join(
        [
            *lines,
            "",
            f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}; "
            f"same tokens: {alike} of {batch} items",
        ]
    )


def _ours(lm: SpeechLM, ids: torch.Tensor, tokens: int) -> tuple[float, torch.Tensor]:
    """-> seconds, ids (batch, tokens)"""
    phases = (Phase("codes", tokens, tokens, lm.vocabulary.control("end")),)
    prompts = [Prompt(row, phases) for row in ids.tolist()]
    began = time.perf_counter()
    generations = lm.generate(prompts, sampling=Sampling(temperature=0))
    seconds = time.perf_counter() - began
    return seconds, torch.stack([generation.codes for generation in generations]) + lm.vocabulary.audio_offset


def _theirs(lm: SpeechLM, ids: torch.Tensor, tokens: int) -> tuple[float, torch.Tensor]:
    """-> seconds, ids (batch, tokens)"""
    model, ids = language_model(lm.model), ids.to(lm.device)
    only_codes = LogitsProcessorList([_OnlyCodes(lm)])
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=lm.vocabulary.control("pad"))
    began = time.perf_counter()
    written = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
        ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=only_codes
    )
    seconds = time.perf_counter() - began
    return seconds, written[:, ids.shape[1] :].cpu()
