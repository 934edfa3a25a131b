"""LibriMix (github.com/JorisCos/LibriMix): mixtures of LibriSpeech's talkers, without or with WHAM's noise."""

from collections.abc import Sequence
from pathlib import Path

from ..utterance import Utterance
from .files import find_audio, listed
from .librispeech import read_transcripts

_MIXTURES = {1: "mix_single", 2: "mix_clean", 3: "mix_clean"}  # what the paper hears


def read_librimix(folder: Path, talkers: int) -> list[Utterance]:
    """`Libri2Mix/wav16k/min/subset/mix_clean/id.wav` beside `s1/id.wav`, `s2/id.wav`; of Libri1Mix `mix_single`.

    The folder is any of these or above; of several rates and lengths 16 kHz and `min` are read, as in the paper. Name
    `.../mix_both` for mixtures in noise. Ids are `speaker-chapter-number` of each talker, joined by `_`; the texts are
    found in a folder `LibriSpeech`, in one of the folders above. Mixtures are the utterances, talkers their `sources`.

    Raises:
        ValueError: no mixtures, mixtures of more or fewer talkers, or without their sources.
    """
    folder = folder.resolve()
    files = [file for place in _mixture_folders(folder, talkers) for file in find_audio(place, ".wav")]
    paths = {file: _source_paths(file, talkers) for file in files}
    if missing := [path for sources in paths.values() for path in sources if not path.is_file()]:
        raise ValueError(
            f"{len(missing)} sources of {len(files)} mixtures are missing, first {missing[0]}: needed are the folders "
            f"s1 to s{talkers} beside those of the mixtures"
        )
    texts = _read_texts(folder, {name for file in files for name in file.stem.split("_")})
    return [_mixture(file, paths[file], texts) for file in files]


def _mixture_folders(folder: Path, talkers: int) -> list[Path]:
    if folder.name.startswith("mix_"):
        return [folder]
    wanted = _MIXTURES[talkers]
    for part in (f"Libri{talkers}Mix", "wav16k", "min"):
        folder = folder / part if (folder / part).is_dir() else folder
    found = [folder / wanted] if (folder / wanted).is_dir() else sorted(folder.glob(f"*/{wanted}"))
    if not found:
        raise ValueError(
            f"no {wanted} in {folder} or its folders, which has {listed(folder)}: mixtures are in "
            f"Libri{talkers}Mix/wav16k/min/SUBSET/{wanted}; name the folder itself for others, such as SUBSET/mix_both"
        )
    return found


def _source_paths(file: Path, talkers: int) -> list[Path]:
    count = file.stem.count("_") + 1
    if count != talkers and file.parent.name != "mix_single":  # which is the first talker's, whoever else was drawn
        raise ValueError(f"{file} is a mixture of {count} by its name, and the layout of {talkers}: name the other one")
    return [file.parent.with_name(f"s{number}") / file.name for number in range(1, talkers + 1)]


def _read_texts(folder: Path, names: set[str]) -> dict[str, str]:
    """Texts of these utterances, none if LibriSpeech is not there."""
    places = (place / "LibriSpeech" for place in (folder, *folder.parents))
    library = next((place for place in places if place.is_dir()), None)
    if library is None:
        return {}
    chapters = {f"{name.rpartition('-')[0]}.trans.txt" for name in names}
    return read_transcripts(path for path in library.glob("*/*/*/*.trans.txt") if path.name in chapters)


def _mixture(file: Path, sources: Sequence[Path], texts: dict[str, str]) -> Utterance:
    talkers = [
        Utterance(name, source, texts.get(name), name.partition("-")[0])
        for name, source in zip(file.stem.split("_"), sources, strict=False)
    ]
    if len(talkers) > 1:
        return Utterance(file.stem, file, sources=tuple(talkers))
    return Utterance(file.stem, file, talkers[0].text, talkers[0].speaker, sources=tuple(talkers))
