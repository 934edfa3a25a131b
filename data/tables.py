"""Rows of a manifest or of a `datasets.Dataset`, as utterances."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .layouts.files import read_utf8
from .utterance import DatasetCell, Utterance

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("id", "audio", "text", "speaker", "seconds")
TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv")
Columns = Mapping[str, str]  # our field -> the name that it has in the source


def read_table(path: Path, columns: Columns) -> list[Utterance]:
    """Utterances of a `.jsonl`, `.csv` or `.tsv` file, LJSpeech's `metadata.csv` included; see `read_corpus`."""
    if path.suffix.lower() == ".jsonl":
        rows: Iterable[tuple[int, dict[str, Any]]] = _json_rows(path)
    else:
        rows = _csv_rows(path)
    corpus = []
    for line, row in rows:
        where = f"{path}, line {line}"
        _check_columns(columns, row, where)
        fields = _fields(row, columns)
        if not isinstance(fields["audio"], str) or not fields["audio"]:
            raise ValueError(f"{where}: audio must be a path, found {fields['audio']!r}")
        name = fields["audio"]
        fields["id"] = Path(name).with_suffix("").as_posix() if fields["id"] in (None, "") else fields["id"]
        corpus.append(_utterance(fields | {"audio": path.parent / name}, where))
    if not corpus:
        raise ValueError(f"{path} lists no utterances: it is empty, or has only a header")
    return corpus


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(read_utf8(path).split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line} is not JSON ({error}): write one object per line") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line} must be an object such as {{'audio': 'a.wav'}}, found {content[:40]!r}"
            )
        yield line, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    content, tabs = read_utf8(path), path.suffix.lower() == ".tsv"
    if "|" in content.partition("\n")[0] and not tabs:
        # LJSpeech: `id|text|normalised text`, no header, quotes are ordinary characters, audio in wavs/.
        for number, line in enumerate(filter(None, content.splitlines()), start=1):
            name, *texts = line.split("|")
            text = next((text for text in reversed(texts) if text), None)
            yield number, {"id": name, "audio": f"wavs/{name}.wav", "text": text}
        return
    # Tab-separated corpora do not quote: a sentence may begin with a quotation mark.
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    stream = io.StringIO(content, newline="")
    reader: csv.DictReader[str] = csv.DictReader(stream, delimiter="\t" if tabs else ",", quoting=quoting)  # type: ignore[call-overload]
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {reader.line_num} has not as many fields as the header {reader.fieldnames}")
        yield reader.line_num, {key: value or None for key, value in row.items()}


def open_dataset(path: Path) -> "Dataset | None":
    """A folder of `Dataset.save_to_disk`, a `.parquet` file or a folder of them; None if it is none of these.

    Raises:
        ValueError: it holds several splits.
    """
    if (path / "dataset_dict.json").is_file():
        splits = json.loads(read_utf8(path / "dataset_dict.json"))["splits"]
        raise ValueError(f"{path} is a DatasetDict: name one of its splits, {', '.join(str(path / s) for s in splits)}")
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    saved = (path / "state.json").is_file()
    if not saved and not (files and files[0].suffix == ".parquet"):
        return None
    from datasets import Dataset  # late: a second to import, and folders do not need it

    if saved:
        return Dataset.load_from_disk(str(path))
    splits = sorted({re.sub(r"-?\d+(-of-\d+)?(-[0-9a-f]+)?$", "", file.stem) for file in files})  # train-00000-of-00002
    if len(splits) > 1:
        raise ValueError(f"{path} holds the splits {', '.join(splits)}: name a file, or give each a folder of its own")
    dataset: Any = Dataset.from_parquet([str(file) for file in files])
    return dataset


def read_dataset(dataset: "Dataset", columns: Columns) -> list[Utterance]:
    """Utterances of a `datasets.Dataset`, whose audio stays where it is; see `read_corpus`."""
    from datasets import Audio, Dataset, Value  # late: a second to import, and folders do not need it

    if not isinstance(dataset, Dataset):
        raise ValueError(
            "a corpus is a path or a datasets.Dataset (one split of a DatasetDict, not streamed), found "
            f"{type(dataset).__name__}"
        )
    dataset = dataset.with_format(None)
    _check_columns(columns, dataset.features, "the dataset")
    audio = columns.get("audio", "audio")
    if isinstance(dataset.features[audio], Audio):
        dataset = dataset.cast_column(audio, Audio(decode=False))  # the bytes: decoding would need torchcodec
    cells = dataset.select_columns([audio])
    scalars = [name for name, kind in dataset.features.items() if isinstance(kind, Value) and name != audio]
    rows: Iterable[dict[str, Any]] = dataset.select_columns(scalars) if scalars else ({} for _ in range(len(dataset)))
    corpus = []
    for index, row in enumerate(rows):
        fields = _fields(row, columns)
        fields["id"] = f"{index:06d}" if fields["id"] is None else fields["id"]
        corpus.append(_utterance(fields | {"audio": DatasetCell(cells, index, audio)}, f"row {index} of the dataset"))
    if not corpus:
        raise ValueError("the dataset has no rows")
    return corpus


def _check_columns(columns: Columns, found: Collection[str], where: str) -> None:
    """Every column that was named must exist, and `audio` in any case."""
    missing = [name for name in {"audio": "audio", **columns}.values() if name not in found]
    if missing:
        raise ValueError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(map(str, found)) or 'none'}. Name the "
            'right one with columns, for example columns={"audio": "file"}'
        )


def _fields(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Our five fields under our names, None where unknown, and the rest as `extra`."""
    names = {field: columns.get(field, field) for field in FIELDS}
    extra = {key: value for key, value in row.items() if key not in names.values()}
    return {field: row.get(name) for field, name in names.items()} | {"extra": extra}


def _utterance(fields: dict[str, Any], where: str) -> Utterance:
    for field in ("id", "text", "speaker"):
        fields[field] = None if fields[field] is None else str(fields[field])
    if fields["seconds"] is not None:
        try:
            fields["seconds"] = float(fields["seconds"])
        except (TypeError, ValueError):
            raise ValueError(f"{where}: seconds must be a number, found {fields['seconds']!r}") from None
    return Utterance(**fields)
