"""Writing speech with a causal LM: only ids that make sense, never too short, never without end. L length in ids."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .vocabulary import Vocabulary

StopReason = Literal["end", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 0  # 0: all
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"sampling needs temperature >= 0, 0 < top_p <= 1 and top_k >= 0, found {self}")


@dataclass(frozen=True)
class LengthWindow:
    """How long speech may be for a text: the paces of a corpus, in seconds per character."""

    fastest: float  # 1st percentile
    slowest: float  # 99th percentile

    @classmethod
    def learn(cls, characters: list[int], seconds: list[float]) -> "LengthWindow":
        """From the lengths of texts and of their recordings."""
        paces = sorted(s / max(c, 1) for c, s in zip(characters, seconds, strict=True))
        return cls(paces[len(paces) // 100], paces[-1 - len(paces) // 100])

    def tokens(self, characters: int, tokens_per_second: float) -> tuple[int, int]:
        """Fewest and most tokens for a text: half the fastest reading; half again, and a second, over the slowest."""
        low = 0.5 * self.fastest * characters * tokens_per_second
        high = (1.5 * self.slowest * characters + 1.0) * tokens_per_second
        return max(1, math.floor(low)), math.ceil(high)


@dataclass(frozen=True)
class Generation:
    """codes (N,) int64 as the codec's `decode` takes them, and why they ended."""

    codes: Tensor
    stop_reason: StopReason


class SpeechOnly(LogitsProcessor):
    """Leaves probability to audio ids, and to the end token once `min_new` ids stand after the prompt."""

    def __init__(self, vocabulary: Vocabulary, prompt_length: int, min_new: int) -> None:
        self.audio = slice(vocabulary.audio_offset, vocabulary.audio_offset + vocabulary.audio_vocab_size)
        self.end, self.earliest_end = vocabulary.control("end"), prompt_length + min_new

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, self.audio] = scores[:, self.audio]
        if input_ids.shape[1] >= self.earliest_end:
            allowed[:, self.end] = scores[:, self.end]
        return allowed


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompt: Tensor,
    length: tuple[int, int],
    sampling: Sampling,
    seed: int,
) -> Generation:
    """Continue a prompt (L,) with at least `length[0]` and at most `length[1]` audio ids.

    Raises:
        ValueError: an empty window, or prompt and window exceed the model's positions.
    """
    fewest, most = length
    if not 1 <= fewest <= most:
        raise ValueError(f"length needs 1 <= fewest <= most audio ids, found {length}")
    limit = model.config.max_position_embeddings
    if len(prompt) + most > limit:
        raise ValueError(
            f"a prompt of {len(prompt)} ids and up to {most} audio ids exceed the model's {limit} positions: "
            "split the text"
        )
    config = GenerationConfig(
        max_new_tokens=most + 1,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or None,
        top_k=sampling.top_k or None,
        top_p=sampling.top_p,
        eos_token_id=vocabulary.control("end"),
        pad_token_id=vocabulary.control("pad"),
    )
    processors = LogitsProcessorList([SpeechOnly(vocabulary, len(prompt), fewest)])
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        ids = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
            prompt[None],
            attention_mask=torch.ones_like(prompt)[None],
            generation_config=config,
            logits_processor=processors,
        )[0, len(prompt) :]
    ended = int(ids[-1]) == vocabulary.control("end")
    codes = torch.tensor(vocabulary.codes(ids.tolist())[:most])
    return Generation(codes, "end" if ended else "length")
