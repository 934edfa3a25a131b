"""Speech corpora of any shape as one list of utterances; audio itself is read only when it is asked for."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .layouts import LAYOUTS
from .layouts.files import find_audio, read_text
from .tables import FIELDS, TABLE_SUFFIXES, Columns, open_dataset, read_dataset, read_table
from .utterance import Utterance

if TYPE_CHECKING:
    from datasets import Dataset


def read_corpus(
    source: "str | Path | Dataset",
    *,
    layout: str | None = None,
    columns: Columns | None = None,
    speakers: Collection[str] | None = None,
    min_seconds: float | None = None,
    max_seconds: float | None = None,
) -> list[Utterance]:
    """List the utterances of a corpus, in an order that depends on its content only.

    Args:
        source: one of
            a folder with `manifest.jsonl` (or LJSpeech's `metadata.csv`);
            a `.jsonl`, `.csv` or `.tsv` file with a column `audio` (a path relative to the file) and, if known, `id`,
            `text`, `speaker`, `seconds`; any other column becomes `extra`;
            a folder of audio files, searched recursively: ids are relative paths without suffix, the text is read from
            a `.txt` file of the same name;
            a `datasets.Dataset` whose column `audio` holds paths, {"bytes", "path"} or {"array", "sampling_rate"}; or
            the folder of its `save_to_disk`, a `.parquet` file, or a folder of them.
        layout: if `source` is a folder as a corpus is published, the name of that, one of `layouts.LAYOUTS`: what is
            read of "iemocap", "libri1mix", "libri2mix", "libri3mix", "librispeech", "libritts", "mls", "vctk" and
            "voicebank" is said by their functions. Speech in noise and mixtures know their `sources`.
        columns: names that differ in a table or a dataset, such as {"text": "sentence"}.
        speakers: keep these speakers.
        min_seconds, max_seconds: keep durations in this range; unknown ones are taken from the file's header. A file
            whose header cannot be read is kept, so that tokenization reports it.

    Raises:
        OSError: there is no such folder or file.
        ValueError: nothing to read, a missing column, a line that cannot be parsed, or a filter that leaves nothing.
    """
    corpus = _read(source, layout, columns)
    if speakers is not None:
        corpus = _keep_speakers(corpus, {speakers} if isinstance(speakers, str) else set(speakers))
    if min_seconds is not None or max_seconds is not None:
        corpus = _keep_durations(corpus, min_seconds or 0.0, float("inf") if max_seconds is None else max_seconds)
    return corpus


def _read(source: "str | Path | Dataset", layout: str | None, columns: Columns | None) -> list[Utterance]:
    unknown = sorted(set(columns or {}) - set(FIELDS))
    if unknown:
        raise ValueError(f"columns maps {', '.join(FIELDS)} to the source's own names, found the keys {unknown}")
    if not isinstance(source, str | Path):
        return read_dataset(source, columns or {})
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no corpus at {path}: check the path")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}; leave it out for other folders"
        )
    if path.is_dir() and layout is None:
        tables = (path / name for name in ("manifest.jsonl", "metadata.csv"))
        path = next((table for table in tables if table.is_file()), path)
    dataset = open_dataset(path) if layout is None and path.suffix.lower() not in TABLE_SUFFIXES else None
    if dataset is not None:
        return read_dataset(dataset, columns or {})
    if path.is_file():
        if layout is not None or path.suffix.lower() not in TABLE_SUFFIXES:
            raise ValueError(
                f"{path} is a file: a corpus is a folder of audio, a {', '.join(TABLE_SUFFIXES)} or .parquet file or a "
                "datasets.Dataset, and a layout needs the folder"
            )
        return read_table(path, columns or {})
    if columns:
        raise ValueError(f"{path} is a folder without manifest.jsonl, so columns={dict(columns)} has nothing to rename")
    return _read_folder(path) if layout is None else LAYOUTS[layout](path)


def _read_folder(folder: Path) -> list[Utterance]:
    files = find_audio(folder)
    ids = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    texts = [read_text(file.with_suffix(".txt")) for file in files]
    return [Utterance(*row) for row in sorted(zip(ids, files, texts, strict=True), key=lambda row: row[:2])]


def _keep_speakers(corpus: list[Utterance], speakers: set[str]) -> list[Utterance]:
    known = sorted({u.speaker for u in corpus if u.speaker is not None})
    if not speakers or not speakers <= set(known):
        raise ValueError(
            f"speakers {sorted(speakers - set(known))} are not in this corpus, which has {len(known)}: {known[:10]}"
        )
    return [u for u in corpus if u.speaker in speakers]


def _keep_durations(corpus: list[Utterance], low: float, high: float) -> list[Utterance]:
    timed = [dataclasses.replace(u, seconds=u.duration()) for u in corpus]
    kept = [u for u in timed if u.seconds is None or low <= u.seconds <= high]
    if not kept:
        seconds = [u.seconds for u in timed if u.seconds is not None]
        raise ValueError(
            f"none of {len(corpus)} utterances lasts {low} to {high} s: they last {min(seconds):.2f} to "
            f"{max(seconds):.2f} s"
        )
    return kept
