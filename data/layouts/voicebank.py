"""VoiceBank-DEMAND (doi.org/10.7488/ds/2117): speech in noise, and the same without."""

from pathlib import Path

from ..utterance import Utterance
from .files import find_audio, listed, read_text


def read_voicebank(folder: Path) -> list[Utterance]:
    """`noisy_testset_wav/id.wav`, `clean_testset_wav/id.wav`, `testset_txt/id.txt`; the same for `trainset_28spk`.

    The folder holds these, or is itself a `noisy_...` beside its `clean_...`: then only that is read. Each may contain
    further folders, as some archives do. Noisy recordings are the utterances, clean ones their `sources`.

    Raises:
        ValueError: there is nothing noisy, or nothing clean for it.
    """
    return [utterance for noisy in _noisy_folders(folder.resolve()) for utterance in _read_set(noisy)]


def _noisy_folders(folder: Path) -> list[Path]:
    if folder.name.startswith("noisy_"):
        return [folder]
    found = sorted(path for path in folder.glob("noisy_*") if path.is_dir())
    if not found:
        raise ValueError(
            f"{folder} has no noisy_testset_wav nor noisy_trainset_28spk_wav, it has {listed(folder)}: unpack the "
            "archives of VoiceBank-DEMAND there, those of clean speech, too"
        )
    return found


def _read_set(noisy: Path) -> list[Utterance]:
    name = noisy.name.removeprefix("noisy_")
    clean, heard = noisy.with_name(f"clean_{name}"), find_audio(noisy)
    targets = {file.name: file for file in find_audio(clean)} if clean.is_dir() else {}
    if missing := [file.name for file in heard if file.name not in targets]:
        raise ValueError(
            f"{len(missing)} of {len(heard)} recordings of {noisy} are not in {clean}, first {missing[0]}: unpack "
            f"{clean.name}.zip beside it"
        )
    texts = {path.stem: path for path in noisy.with_name(f"{name.removesuffix('_wav')}_txt").rglob("*.txt")}
    corpus = []
    for file in heard:
        text = read_text(texts[file.stem]) if file.stem in texts else None
        target = Utterance(file.stem, targets[file.name], text, file.stem.partition("_")[0])
        corpus.append(Utterance(target.id, file, text, target.speaker, sources=(target,)))
    return corpus
