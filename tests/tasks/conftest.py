"""Small speech LMs for every task, and a replacement for their `generate`."""

import copy
import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch

from focallm.lm import LengthWindow, SpeechLM, Vocabulary
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer


@pytest.fixture(scope="session")
def speech_lm(codec):
    """`speech_lm("tts", "se", codec="tiny_25hz")`: random, with two voices and the pace 0.03 s per character."""

    @functools.cache
    def build(*tasks: str, codec_name: str = "tiny_50hz", **config: int) -> SpeechLM:
        audio_tokenizer = AudioTokenizer(codec(codec_name))
        torch.manual_seed(0)
        vocabulary = Vocabulary.characters(["ann bob"], audio_tokenizer.vocab_size)
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
        templates = tuple(TEMPLATES[task] for task in tasks)
        width = None
        if any(template.uses_features for template in templates):
            width = audio_tokenizer.codec.config.encoder_config.dim
        lm = SpeechLM.from_config({**size, **config}, audio_tokenizer, vocabulary, feature_size=width)
        window = LengthWindow(0.03, 0.03)
        lm.info = dataclasses.replace(lm.info, templates=templates, length_window=window, voices=("ann", "bob"))
        return lm

    return lambda *tasks, **options: copy.copy(build(*tasks, **options))  # each test gets a copy that it may change


class Writer:
    """Replaces the `generate` of an LM: writes random codes of the maximum length, and records its calls.

    Args:
        reasons: stop reasons to return, in turn; after the last one "end".
        text: output of phases that generate text.
    """

    def __init__(self, lm: SpeechLM, *reasons: str, text: str = "") -> None:
        self.reasons, self.calls = list(reasons), []
        self.size, self.text = lm.audio_tokenizer.vocab_size, lm.vocabulary.text_ids(text)

    def __call__(self, prompts, length=None, sampling=None, seed=0):
        self.calls.append(SimpleNamespace(prompts=prompts, sampling=sampling, seeds=seed))
        return [self.write(prompt, item_seed) for prompt, item_seed in zip(prompts, seed, strict=True)]

    def write(self, prompt, seed):
        generator = torch.Generator().manual_seed(seed)
        spans = tuple(
            torch.randint(self.size, (phase.max_length,), generator=generator)
            if phase.kind == "codes"
            else torch.tensor(self.text, dtype=torch.long)
            for phase in prompt.phases
        )
        fixed = all(phase.min_length == phase.max_length for phase in prompt.phases)
        reason = "constraint" if fixed else self.reasons.pop(0) if self.reasons else "end"
        return SimpleNamespace(spans=spans, codes=spans[0], stop_reason=reason, num_spans_at_max=0, unit_lengths=())


@pytest.fixture
def write(monkeypatch):
    """`write(lm, "max_length", "end")` replaces the `generate` of an LM by a `Writer`, and returns it."""

    def replace(lm: SpeechLM, *reasons: str, text: str = "") -> Writer:
        writer = Writer(lm, *reasons, text=text)
        monkeypatch.setattr(lm, "generate", writer)
        return writer

    return replace
