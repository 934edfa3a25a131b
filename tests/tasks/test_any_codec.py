"""A language model trains on the tokens of any codec, from tokenize to speak, and `info` describes each codec."""

import json

import numpy as np
import pytest
import torch

from focallm.lm import SpeechLM
from focallm.tasks import speak
from focallm.tasks.cli.commands import COMMANDS
from focallm.tasks.info import describe_model
from focallm.tokenizer import AudioTokenizer, write_audio

RECIPE = """
model: tiny
embeddings: codec
validation_fraction: 0.2
evaluate: {samples: 0}
trainer: {max_steps: 2, use_cpu: true, eval_strategy: "no", report_to: [], learning_rate: 1.0e-2}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of eight recordings with a manifest, beside a recipe."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, rows = np.random.default_rng(0), []
    for i in range(8):
        write_audio(folder / f"{i}.wav", 0.1 * rng.standard_normal(2400 + 100 * i).astype(np.float32), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": f"say number {i}", "speaker": "ab"[i % 2]})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_from_a_folder_of_audio_to_a_model_that_speaks(any_codec, corpus, tmp_path):
    codec, store, run = (tmp_path / name for name in ("codec", "store", "run"))
    AudioTokenizer(any_codec).save_pretrained(codec)
    COMMANDS["tokenize"](corpus, store, codec=str(codec), quiet=True)
    COMMANDS["train"]("tts", store, run, corpus / "recipe.yaml", str(codec), quiet=True)
    lm = SpeechLM.from_pretrained(run / "model")
    c, tok = any_codec.config, lm.audio_tokenizer
    assert lm.vocabulary.codebook_sizes == (c.codebook_size,) * c.num_quantizers
    assert all(torch.isfinite(parameter).all() for parameter in lm.model.parameters())
    result = speak("say it", lm)
    frames, rest = divmod(len(result.audio) * c.sampling_rate, c.samples_per_token * c.output_sampling_rate)
    assert result.sampling_rate == tok.output_sampling_rate == c.output_sampling_rate
    assert frames > 0
    assert rest == 0
    assert np.isfinite(result.audio).all()


def test_info_describes_it(any_codec, tmp_path):
    tok = AudioTokenizer(any_codec)
    tok.save_pretrained(tmp_path)
    description = describe_model(str(tmp_path))
    assert f"{type(any_codec).__name__}, " in description
    assert f"{tok.sampling_rate} Hz in, {tok.output_sampling_rate} Hz out, {tok.frame_rate:g} frames/s" in description
    assert f"{tok.num_codebooks} x {tok.codebook_size}, {tok.bits_per_second:.0f} bit/s" in description
