"""Map the shards of a token store from disk: Parquet is compressed, so there is an uncompressed copy in `arrow/`.

Only the shards have hashes, so the copy is compared with them whenever it is opened.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def map_shards(shards: Sequence[Path], columns: list[str], copy: Path) -> "Dataset":
    """Map columns of shards from disk. The copy is made if there is none, and made again if it is damaged.

    Args:
        shards: Parquet files, whose hashes were checked.
        columns: names of the columns.
        copy: folder of the uncompressed copy.

    Raises:
        ValueError: Even a new copy differs from the shards.
    """
    dataset = _open_copy(shards, columns, copy)
    if dataset is None:
        logger.warning("%s is damaged and is made again from the shards", copy)
        shutil.rmtree(copy)
        dataset = _open_copy(shards, columns, copy)
    if dataset is None:
        raise ValueError(f"{copy} was made twice and differs from the shards: check the disk for errors")
    return dataset


def _open_copy(shards: Sequence[Path], columns: list[str], copy: Path) -> "Dataset | None":
    """Return the mapped copy, or None if it differs from the shards."""
    from datasets import Dataset  # late: it takes a second to import

    try:
        dataset: Any = Dataset.from_parquet(list(map(str, shards)), columns=columns, cache_dir=str(copy))
        table: pa.Table = dataset.data.table
        # Wrong offsets would lead out of the file.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        if not any(copy.rglob("*.arrow")):
            raise
        return None
    start = 0
    for path in shards:
        shard = pq.read_table(path, columns=columns).select(table.column_names).cast(table.schema)
        if not shard.equals(table.slice(start, len(shard))):
            return None
        start += len(shard)
    return dataset if start == len(table) else None
