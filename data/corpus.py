"""Speech corpora of any shape as one list of utterances. Audio is read only on demand."""

import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tokenizer.files import printable
from ..tokenizer.json_lines import read_json_lines
from .layouts import LAYOUTS
from .utterance import DatasetCell, Utterance, find_audio, read_lines, read_text, read_utf8

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("id", "audio", "text", "speaker", "seconds")
MANIFEST_NAMES = ("manifest.jsonl", "metadata.csv")
TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv")

Columns = Mapping[str, str]  # field of an utterance -> its name in the source
Row = dict[str, Any]  # column -> value


def read_corpus(
    source: "str | Path | Dataset",
    *,
    layout: str | None = None,
    columns: Columns | None = None,
    speakers: Collection[str] | None = None,
    min_seconds: float | None = None,
    max_seconds: float | None = None,
) -> list[Utterance]:
    """List the utterances of a corpus. The order depends only on the content of the corpus.

    Args:
        source: one of
            a folder with `manifest.jsonl` (or the `metadata.csv` of LJSpeech);
            a `.jsonl`, `.csv` or `.tsv` file with a column `audio` (paths relative to the file) and optionally `id`,
            `text`, `speaker` and `seconds`; any other column becomes `extra`;
            a folder of audio files, searched recursively; ids are relative paths without suffix, texts are read from
            `.txt` files of the same name;
            a `datasets.Dataset` whose column `audio` holds paths, {"bytes", "path"} or {"array", "sampling_rate"};
            the folder of its `save_to_disk`, a `.parquet` file, or a folder of them.
        layout: one of `layouts.LAYOUTS`, if `source` is a folder in which a corpus was published; see the functions
            there. Noisy recordings and mixtures come with their `sources`.
        columns: names that differ in a table or a dataset, such as {"text": "sentence"}.
        speakers: keep only these speakers.
        min_seconds: keep only utterances of at least this duration. Durations that the corpus does not state are read
            from the file headers; files with an unreadable header are kept, so that tokenization reports them.
        max_seconds: keep only utterances of at most this duration.

    Raises:
        OSError: The folder or file does not exist.
        ValueError: There is nothing to read, a column is missing, a line cannot be parsed, or no utterance is left.
    """
    corpus = _read_source(source, layout, columns or {})
    if speakers is not None:
        corpus = _keep_speakers(corpus, {speakers} if isinstance(speakers, str) else set(speakers))
    if min_seconds is not None or max_seconds is not None:
        corpus = _keep_durations(corpus, min_seconds or 0.0, float("inf") if max_seconds is None else max_seconds)
    return corpus


def summarize_corpus(corpus: Sequence[Utterance]) -> dict[str, Any]:
    """Summarize a corpus for a model card.

    Returns:
        The number of utterances, hours, a hash, and `groups`: the same numbers for each `source` and `license` (or
        `licence`) in the extra columns. The hash covers ids, durations in ms and texts in their order, but not the
        samples.
    """
    digest = hashlib.sha256()
    total_seconds = 0.0
    seconds_of: dict[tuple[str, str], list[float]] = defaultdict(list)
    speakers_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for utterance in corpus:
        seconds = utterance.duration() or 0.0
        total_seconds += seconds
        digest.update(f"{utterance.id}\t{round(1000 * seconds)}\t{utterance.text or ''}\n".encode())
        # A manifest may hold numbers, lists and objects here.
        license = str(utterance.extra.get("license") or utterance.extra.get("licence") or "not named")
        group = (str(utterance.extra.get("source") or "not named"), license)
        seconds_of[group].append(seconds)
        speakers_of[group].add(utterance.speaker or "")
    groups = []
    for source, license in sorted(seconds_of):
        group = (source, license)
        groups.append(
            {
                "source": source,
                "license": license,
                "utterances": len(seconds_of[group]),
                "hours": round(sum(seconds_of[group]) / 3600, 3),
                "speakers": len(speakers_of[group]),
            }
        )
    return {
        "utterances": len(corpus),
        "hours": round(total_seconds / 3600, 3),
        "sha256": digest.hexdigest(),
        "groups": groups,
    }


def _read_source(source: "str | Path | Dataset", layout: str | None, columns: Columns) -> list[Utterance]:
    unknown = sorted(set(columns) - set(FIELDS))
    if unknown:
        raise ValueError(f"columns maps {', '.join(FIELDS)} to the names in the source, found the keys {unknown}")
    if not isinstance(source, str | Path):
        return _read_dataset(source, columns)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no corpus at {path}: check the path")
    if layout is not None:
        return _read_layout(path, layout, columns)

    # A manifest beside the audio files takes precedence over the folder.
    if path.is_dir():
        for name in MANIFEST_NAMES:
            if (path / name).is_file():
                path = path / name
                break
    if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        return _read_table(path, columns)
    dataset = _open_dataset(path)
    if dataset is not None:
        return _read_dataset(dataset, columns)
    if path.is_file():
        raise ValueError(
            f"{path} is a file: a corpus is a folder of audio, a {', '.join(TABLE_SUFFIXES)} or .parquet file or a "
            "datasets.Dataset"
        )
    _check_nothing_to_rename(path, columns)
    return _read_folder(path)


def _read_layout(folder: Path, layout: str, columns: Columns) -> list[Utterance]:
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}; leave it out for other folders"
        )
    if folder.is_file():
        raise ValueError(f"{folder} is a file: the layout {layout} needs the folder in which the corpus was published")
    _check_nothing_to_rename(folder, columns)
    return LAYOUTS[layout](folder)


def _check_nothing_to_rename(folder: Path, columns: Columns) -> None:
    if columns:
        raise ValueError(f"{folder} is read without a table, so columns={dict(columns)} has nothing to rename")


# Folders and tables


def _read_folder(folder: Path) -> list[Utterance]:
    corpus = []
    for file in find_audio(folder):
        utterance_id = printable(file.relative_to(folder).with_suffix(""))
        corpus.append(Utterance(utterance_id, file, read_text(file.with_suffix(".txt"))))
    return sorted(corpus, key=lambda utterance: (utterance.id, utterance.audio))


def _read_table(path: Path, columns: Columns) -> list[Utterance]:
    rows = _read_json_rows(path) if path.suffix.lower() == ".jsonl" else _read_csv_rows(path)
    corpus = []
    for line_number, row in rows:
        where = f"{path}, line {line_number}"
        _check_columns(columns, row, where)
        fields = _to_fields(row, columns, where)
        audio = fields["audio"]
        if not isinstance(audio, str) or not audio:
            raise ValueError(f"{where}: audio must be a path, found {audio!r}")
        if not fields["id"]:
            fields["id"] = printable(Path(audio).with_suffix(""))
        fields["audio"] = path.parent / audio
        corpus.append(Utterance(**fields))
    if not corpus:
        raise ValueError(f"{path} lists no utterances: it is empty, or has only a header")
    return corpus


def _read_json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for line_number, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line_number} must be an object such as {{'audio': 'a.wav'}}, found {str(row)[:40]!r}"
            )
        yield line_number, row


def _read_csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    content = read_utf8(path)
    is_tsv = path.suffix.lower() == ".tsv"
    first_line = content.partition("\n")[0]
    if "|" in first_line and not is_tsv:
        yield from _read_ljspeech_rows(read_lines(path))
        return
    # Tab-separated corpora do not quote: a sentence may start with a quotation mark.
    quoting = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    stream = io.StringIO(content, newline="")
    reader: csv.DictReader[str] = csv.DictReader(stream, delimiter="\t" if is_tsv else ",", quoting=quoting)  # type: ignore[call-overload]
    try:
        for row in reader:
            # DictReader files surplus cells under the key None, and fills missing ones with None.
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num} has not as many fields as the header {reader.fieldnames}"
                )
            yield reader.line_num, {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} cannot be read ({error}): check its quotes") from None


def _read_ljspeech_rows(lines: list[str]) -> Iterator[tuple[int, Row]]:
    """Read lines `id|text|normalized text` without header or quoting. The audio is in `wavs/`."""
    for line_number, line in enumerate(lines, start=1):
        if not line:
            continue
        utterance_id, *texts = line.split("|")
        # The last text is the normalized one, where there is one.
        text = next(filter(None, reversed(texts)), None)
        yield line_number, {"id": utterance_id, "audio": f"wavs/{utterance_id}.wav", "text": text}


# Datasets


def _open_dataset(path: Path) -> "Dataset | None":
    """Open a folder of `Dataset.save_to_disk`, a `.parquet` file or a folder of them. None if it is none of these."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads(read_utf8(path / "dataset_dict.json"))["splits"]
        choices = ", ".join(str(path / split) for split in splits)
        raise ValueError(f"{path} is a DatasetDict: name one of its splits, {choices}")
    is_saved_dataset = (path / "state.json").is_file()
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    is_parquet = bool(files) and files[0].suffix == ".parquet"
    if not is_saved_dataset and not is_parquet:
        return None
    from datasets import Dataset  # late: it takes a second to import, and folders do not need it

    if is_saved_dataset:
        return Dataset.load_from_disk(str(path))
    splits = sorted(set(map(_split_name, files)))
    if len(splits) > 1:
        raise ValueError(f"{path} holds the splits {', '.join(splits)}: name a file, or move each into a folder")
    dataset: Any = Dataset.from_parquet(list(map(str, files)))
    return dataset


def _split_name(file: Path) -> str:
    """Return `train` for a file such as `train-00000-of-00002.parquet`, and "" for a mere number or UUID."""
    # What follows a UUID, such as -c000.snappy, says how the file was written.
    stem = re.sub(r"-?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}.*$", "", file.stem)
    return re.sub(r"-?\d+(-of-\d+)?(-[0-9a-f]+)?$", "", stem)


def _read_dataset(dataset: "Dataset", columns: Columns) -> list[Utterance]:
    from datasets import Audio, Dataset, Value  # late: it takes a second to import, and folders do not need it

    if not isinstance(dataset, Dataset):
        raise ValueError(
            "a corpus is a path or a datasets.Dataset (one split of a DatasetDict, not streamed), found "
            f"{type(dataset).__name__}"
        )
    dataset = dataset.with_format(None)
    _check_columns(columns, dataset.features, "the dataset")
    audio_column = columns.get("audio", "audio")
    if isinstance(dataset.features[audio_column], Audio):
        # Read the bytes as they are: decoding by `datasets` would need torchcodec.
        dataset = dataset.cast_column(audio_column, Audio(decode=False))
    audio_only = dataset.select_columns([audio_column])
    # Iterate over the scalar columns only, so that no audio is read here.
    scalar_columns = []
    for name, feature in dataset.features.items():
        if isinstance(feature, Value) and name != audio_column:
            scalar_columns.append(name)
    rows: Iterable[Row] = dataset.select_columns(scalar_columns) if scalar_columns else [{}] * len(dataset)
    corpus = []
    for index, row in enumerate(rows):
        fields = _to_fields(row, columns, f"row {index} of the dataset")
        if fields["id"] is None:
            fields["id"] = f"{index:06d}"
        fields["audio"] = DatasetCell(audio_only, index, audio_column)
        corpus.append(Utterance(**fields))
    if not corpus:
        raise ValueError("the dataset has no rows")
    return corpus


def _check_columns(columns: Columns, found: Collection[str], where: str) -> None:
    """Check that `audio` and every column that the user has named exist."""
    wanted = {"audio": "audio", **columns}
    missing = sorted(set(wanted.values()) - set(found))
    if missing:
        raise ValueError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(map(str, found)) or 'none'}. Name the "
            'right one with columns, for example columns={"audio": "file"}'
        )


def _to_fields(row: Mapping[str, Any], columns: Columns, where: str) -> dict[str, Any]:
    """Return the arguments of an `Utterance`, None where unknown, with all other columns in `extra`."""
    extra = dict(row)
    fields: dict[str, Any] = {"extra": extra}
    for field in FIELDS:
        name = columns.get(field, field)
        fields[field] = row.get(name)
        extra.pop(name, None)
    for field in ("id", "text", "speaker"):
        if fields[field] is not None:
            fields[field] = printable(str(fields[field]))
    if fields["seconds"] is not None:
        try:
            fields["seconds"] = float(fields["seconds"])
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{where}: seconds must be a number, found {fields['seconds']!r}") from None
        if not 0 <= fields["seconds"] < math.inf:
            raise ValueError(f"{where}: seconds must be a duration, found {fields['seconds']}: correct or remove it")
    return fields


# Filters


def _keep_speakers(corpus: list[Utterance], speakers: set[str]) -> list[Utterance]:
    known = {utterance.speaker for utterance in corpus if utterance.speaker is not None}
    if not speakers or not speakers <= known:
        raise ValueError(
            f"speakers {sorted(speakers - known)} are not in this corpus, which has {len(known)}: {sorted(known)[:10]}"
        )
    return [utterance for utterance in corpus if utterance.speaker in speakers]


def _keep_durations(corpus: list[Utterance], min_seconds: float, max_seconds: float) -> list[Utterance]:
    kept = []
    rejected = []
    for utterance in corpus:
        seconds = utterance.duration()
        if seconds is None or min_seconds <= seconds <= max_seconds:
            kept.append(dataclasses.replace(utterance, seconds=seconds))
        else:
            rejected.append(seconds)
    if not kept:
        raise ValueError(
            f"none of {len(corpus)} utterances lasts {min_seconds} to {max_seconds} s: they last {min(rejected):.2f} "
            f"to {max(rejected):.2f} s"
        )
    return kept
