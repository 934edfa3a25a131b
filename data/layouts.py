"""Corpora in the folders in which they are published: one reader per corpus, from a folder to its utterances."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .utterance import Utterance, find_audio, find_files, read_lines, read_text, read_utf8

# The emotions that the authors of the paper classify. Like their code, this does not count excited (exc) as happy.
EMOTIONS = ("ang", "hap", "neu", "sad")

_IEMOCAP_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\w+)\s+(\w+)\s+\[.*\]")
_IEMOCAP_TEXT = re.compile(r"(\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")
# The folder of the mixtures that the paper evaluates on, by number of speakers.
_LIBRIMIX_FOLDERS = {1: "mix_single", 2: "mix_clean", 3: "mix_clean"}


def read_librispeech(folder: Path) -> list[Utterance]:
    """Read LibriSpeech (openslr.org/12).

    Files: `[subset/]speaker/chapter/id.flac`, and beside them `speaker-chapter.trans.txt` with an id and a text per
    line.
    """
    files = find_audio(folder, ".flac")
    texts = _read_librispeech_texts({file.with_name(_librispeech_text_name(file.stem)) for file in files})
    corpus = []
    for file in files:
        corpus.append(Utterance(file.stem, file, texts.get(file.stem), file.parent.parent.name))
    return corpus


def _librispeech_text_name(utterance_id: str) -> str:
    chapter = utterance_id.rpartition("-")[0]
    return f"{chapter}.trans.txt"


def _read_librispeech_texts(paths: Iterable[Path]) -> dict[str, str]:
    """Read texts by id from those `speaker-chapter.trans.txt` that exist."""
    texts = {}
    for path in paths:
        if not path.is_file():
            continue
        for line in read_lines(path):
            utterance_id, _, text = line.partition(" ")
            texts[utterance_id] = text
    return texts


def read_libritts(folder: Path) -> list[Utterance]:
    """Read LibriTTS (openslr.org/60) or LibriTTS-R (openslr.org/141).

    Files: `[subset/]speaker/chapter/id.wav` beside `id.normalized.txt`.
    """
    corpus = []
    for file in find_audio(folder, ".wav"):
        text = read_text(file.with_suffix(".normalized.txt"))
        corpus.append(Utterance(file.stem, file, text, file.parent.parent.name))
    return corpus


def read_vctk(folder: Path) -> list[Utterance]:
    """Read VCTK 0.92 (doi.org/10.7488/ds/2645), first microphone only.

    Files: `wav48_silence_trimmed/speaker/id_mic1.flac` and `txt/speaker/id.txt`. Speaker p315 has no texts.
    """
    corpus = []
    for file in find_audio(folder / "wav48_silence_trimmed", "_mic1.flac"):
        utterance_id = file.stem.removesuffix("_mic1")
        speaker = file.parent.name
        text = read_text(folder / "txt" / speaker / f"{utterance_id}.txt")
        corpus.append(Utterance(utterance_id, file, text, speaker))
    return corpus


def read_mls(folder: Path) -> list[Utterance]:
    """Read Multilingual LibriSpeech (openslr.org/94).

    Files: `mls_german[_opus]/subset/audio/speaker/book/id.flac` (or `.opus`) and `mls_german/subset/transcripts.txt`.
    The folder is a subset, a language, or holds several languages. `extra` has the `language`, such as "german".

    Raises:
        ValueError: There are no such folders, or a line of a `transcripts.txt` is not an id, a tab and a text.
    """
    transcripts = [path for path in find_files(folder) if path.name == "transcripts.txt"]
    if not transcripts:
        raise ValueError(
            f"no transcripts.txt in {folder} or below: an MLS corpus is mls_LANGUAGE/{{train,dev,test}}/, each with "
            "transcripts.txt and audio/"
        )
    corpus = []
    for path in transcripts:
        extra = {"language": _mls_language(path)}
        texts = _read_mls_texts(path)
        for file in find_audio(path.parent / "audio"):
            speaker = file.parent.parent.name
            corpus.append(Utterance(file.stem, file, texts.get(file.stem), speaker, extra=extra))
    return corpus


def _read_mls_texts(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(read_lines(path), start=1):
        utterance_id, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number} must be an id, a tab and a text, found {line[:60]!r}")
        texts[utterance_id] = text.strip()
    return texts


def _mls_language(transcripts: Path) -> str:
    folder_name = transcripts.resolve().parents[1].name
    if not folder_name.startswith("mls_"):
        raise ValueError(
            f"{transcripts} must be at mls_LANGUAGE/subset/transcripts.txt, found the folder {folder_name!r}"
        )
    return folder_name.split("_")[1]


def read_iemocap(folder: Path) -> list[Utterance]:
    """Read IEMOCAP (sail.usc.edu/iemocap): turns of acted dialogues with one of the four `EMOTIONS`.

    Files: `Session1/sentences/wav/dialogue/id.wav` and `Session1/dialog/{EmoEvaluation,transcriptions}/dialogue.txt`.
    The folder holds the sessions, or is one. `extra` has `emotion`, `session` (1 to 5) and `gender` ("F", "M").

    Raises:
        ValueError: There are no sessions, or a label cannot be parsed.
    """
    folder = folder.resolve()
    sessions = [folder] if folder.name.startswith("Session") else sorted(folder.glob("Session?"))
    label_files: list[Path] = []
    for session in sessions:
        label_files += sorted(session.glob("dialog/EmoEvaluation/Ses*.txt"))
    if not label_files:
        raise ValueError(
            f"no Session1/dialog/EmoEvaluation/Ses*.txt in {folder}, which has {_list_names(folder)}: name the folder "
            "of IEMOCAP that holds Session1 to Session5"
        )
    corpus = []
    for label_file in label_files:
        corpus += _read_iemocap_dialogue(label_file)
    return corpus


def _read_iemocap_dialogue(label_file: Path) -> list[Utterance]:
    session = label_file.parents[2]
    text_file = session / "dialog" / "transcriptions" / label_file.name
    texts = dict(_IEMOCAP_TEXT.findall(read_utf8(text_file))) if text_file.is_file() else {}
    corpus = []
    for number, line in enumerate(read_lines(label_file), start=1):
        # Other lines are headings or the votes of single annotators.
        if not line.startswith("["):
            continue
        match = _IEMOCAP_LABEL.match(line)
        if match is None:
            raise ValueError(
                f"{label_file}, line {number} must be [start - end], an id, an emotion and [valence, activation, "
                f"dominance], with tabs between, found {line[:60]!r}"
            )
        turn_id, emotion = match.groups()
        if emotion not in EMOTIONS:
            continue
        # Turn ids look like Ses01F_impro01_M003. M is the gender of the speaker; F is that of the actor with motion
        # capture markers.
        gender = turn_id.rpartition("_")[2][0]
        speaker = f"{turn_id[:5]}{gender}"
        extra = {"emotion": emotion, "session": int(session.name[-1]), "gender": gender}
        audio = session / "sentences" / "wav" / label_file.stem / f"{turn_id}.wav"
        corpus.append(Utterance(turn_id, audio, texts.get(turn_id), speaker, extra=extra))
    return corpus


def read_voicebank(folder: Path) -> list[Utterance]:
    """Read VoiceBank-DEMAND (doi.org/10.7488/ds/2117): speech with noise, and the same speech without.

    Files: `noisy_testset_wav/id.wav`, `clean_testset_wav/id.wav` and `testset_txt/id.txt`; the same with
    `trainset_28spk`. The folder holds these, or is one of the `noisy_...` beside its `clean_...`; then only that set is
    read. Each may contain further folders, as some archives do. Noisy recordings become the utterances and clean ones
    their `sources`.

    Raises:
        ValueError: There are no noisy recordings, or one has no clean one.
    """
    folder = folder.resolve()
    if folder.name.startswith("noisy_"):
        return _read_voicebank_set(folder)
    noisy_folders = sorted(filter(Path.is_dir, folder.glob("noisy_*")))
    if not noisy_folders:
        raise ValueError(
            f"{folder} has no noisy_testset_wav nor noisy_trainset_28spk_wav, it has {_list_names(folder)}: unpack the "
            "archives of VoiceBank-DEMAND there, including those of clean speech"
        )
    corpus = []
    for noisy_folder in noisy_folders:
        corpus += _read_voicebank_set(noisy_folder)
    return corpus


def _read_voicebank_set(noisy_folder: Path) -> list[Utterance]:
    set_name = noisy_folder.name.removeprefix("noisy_")
    clean_folder = noisy_folder.with_name(f"clean_{set_name}")
    noisy_files = find_audio(noisy_folder)
    clean_files = {file.name: file for file in find_audio(clean_folder)} if clean_folder.is_dir() else {}
    text_folder = noisy_folder.with_name(f"{set_name.removesuffix('_wav')}_txt")
    texts = find_files(text_folder) if text_folder.is_dir() else []
    text_files = {path.stem: path for path in texts if path.suffix == ".txt"}
    corpus = []
    missing = []
    for file in noisy_files:
        if file.name not in clean_files:
            missing.append(file.name)
            continue
        text = read_text(text_files[file.stem]) if file.stem in text_files else None
        speaker = file.stem.partition("_")[0]
        clean = Utterance(file.stem, clean_files[file.name], text, speaker)
        corpus.append(Utterance(file.stem, file, text, speaker, sources=(clean,)))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(noisy_files)} recordings of {noisy_folder} are not in {clean_folder}, first "
            f"{missing[0]}: unpack {clean_folder.name}.zip beside it"
        )
    return corpus


def read_librimix(folder: Path, num_speakers: int) -> list[Utterance]:
    """Read LibriMix (github.com/JorisCos/LibriMix): mixtures of LibriSpeech utterances, without or with WHAM noise.

    Files: `Libri2Mix/wav16k/min/subset/mix_clean/id.wav` beside `s1/id.wav` and `s2/id.wav`; `mix_single` in Libri1Mix.
    The folder is any of these or above. Where there are several rates and lengths, 16 kHz and `min` are read, as in the
    paper. Name `.../mix_both` for mixtures with noise. Ids are `speaker-chapter-number` of each source, joined by `_`.
    Texts are read from a folder `LibriSpeech` beside one of these folders, if there is one. Mixtures become the
    utterances, and the recordings of their speakers the `sources`.

    Args:
        folder: where to look.
        num_speakers: number of speakers in each mixture.

    Raises:
        ValueError: There are no mixtures, or they have a different number of speakers, or sources are missing.
    """
    folder = folder.resolve()
    files: list[Path] = []
    for mixture_folder in _librimix_folders(folder, num_speakers):
        files += find_audio(mixture_folder, ".wav")
    source_files = {}
    missing: list[Path] = []
    for file in files:
        source_files[file] = _librimix_sources(file, num_speakers)
        missing += [path for path in source_files[file] if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} sources of {len(files)} mixtures are missing, first {missing[0]}: needed are the folders "
            f"s1 to s{num_speakers} beside those of the mixtures"
        )
    texts = _read_librimix_texts(folder, files)
    corpus = []
    for file in files:
        sources = []
        # The name of a Libri1Mix file lists two utterances, but the file contains only the first.
        for utterance_id, source_file in zip(file.stem.split("_"), source_files[file], strict=False):
            speaker = utterance_id.partition("-")[0]
            sources.append(Utterance(utterance_id, source_file, texts.get(utterance_id), speaker))
        mixture = Utterance(file.stem, file, sources=tuple(sources))
        if len(sources) == 1:
            mixture = dataclasses.replace(mixture, text=sources[0].text, speaker=sources[0].speaker)
        corpus.append(mixture)
    return corpus


def _librimix_folders(folder: Path, num_speakers: int) -> list[Path]:
    if folder.name.startswith("mix_"):
        return [folder]
    for part in (f"Libri{num_speakers}Mix", "wav16k", "min"):
        if (folder / part).is_dir():
            folder = folder / part
    name = _LIBRIMIX_FOLDERS[num_speakers]
    if (folder / name).is_dir():
        return [folder / name]
    subsets = sorted(folder.glob(f"*/{name}"))
    if not subsets:
        raise ValueError(
            f"no {name} in {folder} or its folders, which has {_list_names(folder)}: mixtures are in "
            f"Libri{num_speakers}Mix/wav16k/min/SUBSET/{name}; name the folder itself for others, such as "
            "SUBSET/mix_both"
        )
    return subsets


def _librimix_sources(file: Path, num_speakers: int) -> list[Path]:
    named_speakers = file.stem.count("_") + 1
    # mix_single contains only the first speaker, but its file names list all utterances of the mixture.
    if named_speakers != num_speakers and file.parent.name != "mix_single":
        raise ValueError(
            f"the name of {file} lists {named_speakers} speakers, and the layout is for {num_speakers}: choose "
            f"--layout libri{named_speakers}mix"
        )
    return [file.parent.with_name(f"s{number}") / file.name for number in range(1, num_speakers + 1)]


def _read_librimix_texts(folder: Path, files: list[Path]) -> dict[str, str]:
    """Read the texts of the sources by id. There are none if LibriSpeech is not found."""
    library = None
    for parent in (folder, *folder.parents):
        if (parent / "LibriSpeech").is_dir():
            library = parent / "LibriSpeech"
            break
    if library is None:
        return {}
    wanted: set[str] = set()
    for file in files:
        wanted.update(map(_librispeech_text_name, file.stem.split("_")))
    return _read_librispeech_texts(path for path in library.glob("*/*/*/*.trans.txt") if path.name in wanted)


def _list_names(folder: Path) -> str:
    """Return the first names in a folder, for error messages about what was found there."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) or "nothing"


LAYOUTS: dict[str, Callable[[Path], list[Utterance]]] = {
    "iemocap": read_iemocap,
    "libri1mix": partial(read_librimix, num_speakers=1),
    "libri2mix": partial(read_librimix, num_speakers=2),
    "libri3mix": partial(read_librimix, num_speakers=3),
    "librispeech": read_librispeech,
    "libritts": read_libritts,
    "mls": read_mls,
    "vctk": read_vctk,
    "voicebank": read_voicebank,
}
