import torch

from focallm.lm import SpeechLM, Vocabulary
from focallm.tasks.benchmarks.lm import benchmark_lm
from focallm.tokenizer import AudioTokenizer


def test_both_generate_the_same_tokens(codec):
    torch.manual_seed(0)
    audio_tokenizer = AudioTokenizer(codec("tiny_50hz"))
    lm = SpeechLM.from_config("tiny", audio_tokenizer, Vocabulary.characters(["abc"], audio_tokenizer.vocab_size))
    for parameter in lm.model.parameters():  # a fresh model's logits nearly tie
        parameter.data = torch.randn_like(parameter) * 0.3
    table = benchmark_lm(lm, batch=2, tokens=5, threads=1)
    assert "| transformers.generate |" in table
    assert "| focallm |" in table
    assert "same tokens: 2 of 2 items" in table
    assert "written-out step" in table
