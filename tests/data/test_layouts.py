"""Miniatures of published corpora are read; missing and malformed files are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer, Premixed
from focallm.data.token_store import TokenStore
from focallm.data.tokenization import tokenize_corpus
from focallm.tokenizer import AudioTokenizer

RATE = 16000


def _write(path: Path, wave: np.ndarray | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = _tone(200) if wave is None else wave
    if path.suffix == ".opus":
        soundfile.write(path, wave, RATE, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, wave, RATE)
    return wave


def _tone(hertz: float, start_s: float = 0.0, seconds: float = 0.5) -> np.ndarray:
    """Silence up to `start_s`."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.1 * np.sin(2 * np.pi * hertz * time) * (time >= start_s)).astype(np.float32)


def _say(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _mls(folder: Path) -> Path:
    for language, suffix, text in (("german", ".flac", "schöne grüße"), ("polish_opus", ".opus", "dzień dobry")):
        subset = folder / f"mls_{language}" / "test"
        name = f"{len(language)}_20_000000"
        _write(subset / "audio" / str(len(language)) / "20" / f"{name}{suffix}")
        _say(subset / "transcripts.txt", f"{name}\t{text}\n")
        _say(subset / "segments.txt", f"{name}\thttp://example.org/a.mp3\t0.0\t0.5\n")
    return folder


def test_mls_of_several_languages_of_one_and_of_a_subset(tmp_path: Path) -> None:
    corpus = read_corpus(_mls(tmp_path), layout="mls")
    assert [(u.id, u.text, u.speaker, u.extra["language"]) for u in corpus] == [
        ("6_20_000000", "schöne grüße", "6", "german"),
        ("11_20_000000", "dzień dobry", "11", "polish"),
    ]
    assert [len(u.read(RATE)[0]) for u in corpus] == [8000, 8000]
    assert read_corpus(tmp_path / "mls_german", layout="mls") == corpus[:1]
    assert read_corpus(tmp_path / "mls_polish_opus" / "test", layout="mls") == corpus[1:]


def test_missing_files_of_mls_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no transcripts\.txt in .*mls_LANGUAGE"):
        read_corpus(tmp_path, layout="mls")
    _mls(tmp_path)
    _say(tmp_path / "mls_german/test/transcripts.txt", "6_20_000000 no tab\n")
    with pytest.raises(ValueError, match=r"transcripts\.txt, line 1 must be an id, a tab and a text, found '6_20"):
        read_corpus(tmp_path, layout="mls")
    (tmp_path / "mls_german").rename(tmp_path / "german")
    with pytest.raises(ValueError, match=r"must be at mls_LANGUAGE/subset/transcripts\.txt, found the folder 'german'"):
        read_corpus(tmp_path / "german", layout="mls")


def _voicebank(folder: Path, nested: str = "") -> dict[str, np.ndarray]:
    """Write two recordings to test on, one with a text, and one to train on. Returns the clean ones by id."""
    clean = {}
    for part, name in (("testset", "p232_001"), ("testset", "p257_433"), ("trainset_28spk", "p226_001")):
        wave = clean[name] = _write(folder / f"clean_{part}_wav" / nested / f"{name}.wav", _tone(int(name[1:4])))
        _write(folder / f"noisy_{part}_wav" / nested / f"{name}.wav", wave + _tone(900))
    _say(folder / "testset_txt" / nested / "p232_001.txt", "Please call Stella.\n")
    return clean


@pytest.mark.parametrize("nested", ["", "clean_testset_wav", "a/b"])
def test_voicebank_pairs_noisy_recordings_with_clean_ones(tmp_path: Path, nested: str) -> None:
    clean = _voicebank(tmp_path, nested)
    corpus = read_corpus(tmp_path, layout="voicebank")
    assert [(u.id, u.speaker, u.text) for u in corpus] == [
        ("p232_001", "p232", "Please call Stella."),
        ("p257_433", "p257", None),
        ("p226_001", "p226", None),
    ]
    for utterance in corpus:
        (source,) = utterance.sources
        np.testing.assert_allclose(source.read()[0], clean[utterance.id], atol=1e-4)
        np.testing.assert_allclose(utterance.read()[0], clean[utterance.id] + _tone(900), atol=1e-4)
    assert read_corpus(tmp_path / "noisy_testset_wav", layout="voicebank") == corpus[:2]


def test_missing_files_of_voicebank_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "p232_001.wav")
    with pytest.raises(ValueError, match=r"has no noisy_testset_wav .* it has p232_001\.wav: unpack"):
        read_corpus(tmp_path, layout="voicebank")
    _voicebank(tmp_path)
    (tmp_path / "clean_testset_wav/p257_433.wav").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 recordings of .*noisy_testset_wav are not in .*first p257_433\.wav"):
        read_corpus(tmp_path, layout="voicebank")


def _librimix(root: Path, name: str, kind: str, noise: float = 0.0, subset: str = "test") -> Path:
    """One mixture; the second of several speakers begins first. Returns the folder of its version."""
    version = root / f"Libri{name.count('_') + 1}Mix" / "wav16k" / "min"
    waves = [_tone(200 + 100 * i, 0.2 - 0.1 * i) for i in range(name.count("_") + 1)]
    for number, wave in enumerate(waves, start=1):
        _write(version / subset / f"s{number}" / f"{name}.wav", wave)
    mixed = waves if kind != "mix_single" else waves[:1]
    _write(version / subset / kind / f"{name}.wav", np.sum(mixed, axis=0) + np.float32(noise))
    return version


def _librispeech(root: Path) -> None:
    chapter = root / "LibriSpeech" / "test-clean" / "61" / "70968"
    _say(chapter / "61-70968.trans.txt", "61-70968-0000 HE BEGAN\n61-70968-0001 OTHER\n")
    _say(root / "LibriSpeech/test-clean/84/1/84-1.trans.txt", "84-1-0002 SHE CAME\n")


def test_libri2mix_and_libri3mix_have_speakers_and_texts(tmp_path: Path) -> None:
    _librispeech(tmp_path)
    version = _librimix(tmp_path, "61-70968-0000_84-1-0002", "mix_clean")
    _librimix(tmp_path, "61-70968-0000_84-1-0002", "mix_both", noise=0.01)
    _librimix(tmp_path, "61-70968-0001_84-1-0002_99-1-0000", "mix_clean")
    (mixture,) = read_corpus(tmp_path, layout="libri2mix")
    assert (mixture.id, mixture.text, mixture.audio.parent.name) == ("61-70968-0000_84-1-0002", None, "mix_clean")
    assert [(source.id, source.speaker, source.text) for source in mixture.sources] == [
        ("61-70968-0000", "61", "HE BEGAN"), ("84-1-0002", "84", "SHE CAME")
    ]  # fmt: skip
    total = np.sum([source.read()[0] for source in mixture.sources], axis=0)
    np.testing.assert_allclose(mixture.read()[0], total, atol=1e-4)
    for folder in (version.parent.parent, version, version / "test", version / "test" / "mix_clean"):
        assert read_corpus(folder, layout="libri2mix") == [mixture]
    (noisy,) = read_corpus(version / "test" / "mix_both", layout="libri2mix")
    assert (noisy.audio.parent.name, noisy.sources) == ("mix_both", mixture.sources)
    (three,) = read_corpus(tmp_path, layout="libri3mix")
    assert [source.text for source in three.sources] == ["OTHER", "SHE CAME", None]


def test_libri1mix_and_mix_single_are_one_speaker_in_noise(tmp_path: Path) -> None:
    _librispeech(tmp_path)
    _librimix(tmp_path, "61-70968-0000", "mix_single", noise=0.01)
    (noisy,) = read_corpus(tmp_path, layout="libri1mix")
    assert (noisy.id, noisy.text, noisy.speaker, len(noisy.sources)) == ("61-70968-0000", "HE BEGAN", "61", 1)
    version = _librimix(tmp_path, "84-1-0002_61-70968-0001", "mix_single", noise=0.01, subset="dev")
    (single,) = read_corpus(version / "dev", layout="libri1mix")
    assert [(source.id, source.text) for source in single.sources] == [("84-1-0002", "SHE CAME")]


def test_librimix_without_librispeech_has_no_texts_and_other_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no mix_clean in .* which has nothing: .*Libri2Mix/wav16k/min/SUBSET"):
        read_corpus(tmp_path, layout="libri2mix")
    version = _librimix(tmp_path, "61-70968-0000_84-1-0002", "mix_clean")
    assert [source.text for source in read_corpus(tmp_path, layout="libri2mix")[0].sources] == [None, None]
    with pytest.raises(ValueError, match="lists 2 speakers, and the layout is for 3: choose --layout libri2mix"):
        read_corpus(version, layout="libri3mix")
    (version / "test/s2/61-70968-0000_84-1-0002.wav").unlink()
    with pytest.raises(ValueError, match=r"1 sources of 1 mixtures are missing.*needed are the folders s1 to s2"):
        read_corpus(version, layout="libri2mix")


def _iemocap(folder: Path) -> Path:
    labels = (
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes05F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "C-E2:\tNeutral;\t()\n"
        "[10.0100 - 11.3925]\tSes05F_impro01_M000\texc\t[4.0000, 4.0000, 3.0000]\n"
        "[14.8872 - 18.0175]\tSes05F_impro01_M001\thap\t[4.0000, 3.5000, 3.0000]\n"
        "[19.2900 - 20.7875]\tSes05F_impro01_F002\txxx\t[2.5000, 3.0000, 3.0000]\n"
    )
    session = folder / "Session5"
    _say(session / "dialog/EmoEvaluation/Ses05F_impro01.txt", labels)
    _say(session / "dialog/EmoEvaluation/._Ses05F_impro01.txt", "what a Mac leaves")
    _say(session / "dialog/EmoEvaluation/Categorical/e1_Ses05F_impro01.txt", "[of one annotator")
    spoken = "Ses05F_impro01_F000 [006.2901-008.2357]: Excuse me.\nM: [LAUGHTER]\n"
    _say(session / "dialog/transcriptions/Ses05F_impro01.txt", spoken)
    for name in ("F000", "M000", "M001", "F002"):
        _write(session / "sentences/wav/Ses05F_impro01" / f"Ses05F_impro01_{name}.wav")
    return folder


def test_iemocap_has_the_turns_of_four_emotions(tmp_path: Path) -> None:
    corpus = read_corpus(_iemocap(tmp_path), layout="iemocap")
    assert [(u.id, u.speaker, u.text, u.extra) for u in corpus] == [
        ("Ses05F_impro01_F000", "Ses05F", "Excuse me.", {"emotion": "neu", "session": 5, "gender": "F"}),
        ("Ses05F_impro01_M001", "Ses05M", None, {"emotion": "hap", "session": 5, "gender": "M"}),
    ]
    assert all(len(u.read()[0]) == 8000 for u in corpus)
    assert read_corpus(tmp_path / "Session5", layout="iemocap") == corpus


def test_missing_or_malformed_files_of_iemocap_are_named(tmp_path: Path) -> None:
    (tmp_path / "IEMOCAP_full_release").mkdir()
    with pytest.raises(ValueError, match=r"no Session1/dialog/EmoEvaluation.* has IEMOCAP_full_release: name"):
        read_corpus(tmp_path, layout="iemocap")
    _say(_iemocap(tmp_path) / "Session5/dialog/EmoEvaluation/Ses05M_x.txt", "% heading\n[1.0 - 2.0] Ses05M_x_F000\n")
    with pytest.raises(ValueError, match=r"Ses05M_x\.txt, line 2 must be \[start - end\], an id, an emotion"):
        read_corpus(tmp_path, layout="iemocap")


def test_a_store_of_voicebank_has_clean_and_noisy_codes(tmp_path: Path, codec) -> None:
    _voicebank(tmp_path / "corpus")
    corpus, tokenizer = read_corpus(tmp_path / "corpus", layout="voicebank"), AudioTokenizer(codec("mel"))
    manifest = tokenize_corpus(corpus, tmp_path / "store", tokenizer, features=True, progress=False, listen=1)
    assert manifest["mix"] == {"kind": "noisy", "folders": ["noisy_testset_wav", "noisy_trainset_28spk_wav"]}
    store = TokenStore(tmp_path / "store")
    assert {"noisy_codes", "noisy_features"} <= set(store.columns)
    for row in store:
        for column, kind in (("codes", "clean"), ("noisy_codes", "noisy")):
            file = next((tmp_path / "corpus").glob(f"{kind}_*/{row['id']}.wav"))
            np.testing.assert_array_equal(row[column], tokenizer(file)["input_ids"][0])
        assert (row["codes"] != row["noisy_codes"]).any()
        assert row["utterance"] == row["id"]
    assert len(list((tmp_path / "store/listen").glob("*.input.wav"))) == 1


def test_a_store_of_libri2mix_has_its_speakers_in_the_order_in_which_they_start(tmp_path: Path, codec) -> None:
    _librispeech(tmp_path)
    _librimix(tmp_path, "61-70968-0000_84-1-0002", "mix_clean")
    tokenizer = AudioTokenizer(codec("mel"))
    corpus = read_corpus(tmp_path, layout="libri2mix")
    tokenize_corpus(corpus, tmp_path / "store", tokenizer, progress=False, listen=0)
    (row,) = TokenStore(tmp_path / "store")
    assert (row["id"], row["utterance"]) == ("61-70968-0000_84-1-0002", "84-1-0002")
    assert row["texts"] == ["SHE CAME", "HE BEGAN"]
    assert (row["text"], row["speaker"], row["speakers"]) == ("SHE CAME", "84", ["84", "61"])
    assert json.loads(row["mix"]) == {"utterances": ["84-1-0002", "61-70968-0000"], "onsets_s": [0.1, 0.2]}
    for codes, source in zip(row["sources"], reversed(corpus[0].sources), strict=True):
        np.testing.assert_array_equal(codes, tokenizer(source.read()[0], sampling_rate=RATE)["input_ids"][0])
    mixed = tokenizer(corpus[0].read()[0], sampling_rate=RATE)["input_ids"][0]
    np.testing.assert_array_equal(row["mixture_codes"], mixed)


def test_mixtures_are_not_mixed_again_and_need_sources_of_equal_length(tmp_path: Path) -> None:
    _voicebank(tmp_path)
    corpus = read_corpus(tmp_path, layout="voicebank")
    with pytest.raises(ValueError, match=r"already consists of mixed speech \(p232_001 has its sources\)"):
        Mixer(MixConfig("noisy", noise={"colored": 1.0}, snr_db=(0.0, 0.0)), corpus)
    with pytest.raises(ValueError, match="1 of 2 recordings have no sources, first p232_001"):
        Premixed([corpus[1], corpus[0].sources[0]])
    _write(tmp_path / "clean_testset_wav/p232_001.wav", _tone(200, seconds=0.4))
    with pytest.raises(ValueError, match=r"clean_testset_wav/p232_001\.wav has 6400 samples and .* 8000 at 16000 Hz"):
        Premixed(corpus).example(corpus[0], RATE)
