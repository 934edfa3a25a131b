"""Fixtures of the exports: tiny speech LMs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from focallm.lm import SpeechLM, Vocabulary
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer


def make_plain_lm(
    audio_tokenizer: AudioTokenizer, config: Any, tasks: tuple[str, ...] = ("tts",), **options: Any
) -> SpeechLM:
    """A random model of some tasks, whose weights are large enough that its choices are clear."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters(["ann"], audio_tokenizer.codebook_sizes)
    lm = SpeechLM.from_config(config, audio_tokenizer, vocabulary, **options)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    templates = tuple(TEMPLATES[task] for task in tasks)
    lm.info = dataclasses.replace(lm.info, templates=templates, voices=("ann",), longest_unit_s=0.5)
    lm.model.eval()
    return lm


def make_unexportable_lm(audio_tokenizer: AudioTokenizer, kind: str) -> SpeechLM:
    """A model that needs the controller of aligned speech ("aligned"), features, or another architecture ("gpt2")."""
    if kind == "aligned":
        return make_plain_lm(audio_tokenizer, "tiny", ("tts-aligned",))
    if kind == "features":
        return make_plain_lm(audio_tokenizer, "tiny", ("se-features",), feature_size=16)
    lm = make_plain_lm(audio_tokenizer, "tiny")
    config = GPT2Config(vocab_size=lm.vocabulary.padded_size, n_embd=32, n_layer=1, n_head=2)
    return SpeechLM(GPT2LMHeadModel(config), lm.vocabulary, audio_tokenizer, lm.info)


@pytest.fixture(scope="session")
def audio_tokenizer(tiny_codec: Callable) -> AudioTokenizer:
    """A codec of few codes, because a large vocabulary takes long to build."""
    return AudioTokenizer(tiny_codec("ts3_codec"))


@pytest.fixture(scope="session")
def plain_lm(audio_tokenizer: AudioTokenizer) -> Callable[..., SpeechLM]:
    """`plain_lm("tiny", ("tts",))` makes a random model of some tasks."""
    return lambda *args, **kwargs: make_plain_lm(audio_tokenizer, *args, **kwargs)


@pytest.fixture(scope="session")
def unexportable_lm(audio_tokenizer: AudioTokenizer) -> Callable[[str], SpeechLM]:
    """`unexportable_lm("aligned")`, "features" or "gpt2": a model that needs more than an engine has."""
    return lambda kind: make_unexportable_lm(audio_tokenizer, kind)
