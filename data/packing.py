"""Which examples share a row, so that little of a batch is padding. L length of a row in ids."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put examples into rows of at most `capacity` ids: the longest first, each where it leaves the least room.

    Best fit decreasing needs at most 11/9 of the fewest possible rows (Johnson, 1973); with the lengths of a corpus,
    nearly none more. The same lengths always give the same rows.

    Args:
        lengths: of the examples, each at most `capacity`.
        capacity: of a row.

    Returns:
        The rows, each a list of places in `lengths`.

    Raises:
        ValueError: an example that fits in no row.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"an example of {max(lengths)} ids fits in no row of {capacity}: leave it out first")
    rows: list[list[int]] = []
    rooms: list[int] = []  # the distinct sizes of what is free, ascending
    rows_with: dict[int, list[int]] = {}  # size of what is free -> rows
    for example in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        place = bisect_left(rooms, lengths[example])
        if place < len(rooms):
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rows_with[rooms.pop(place)]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(example)
        left = room - lengths[example]
        if left not in rows_with:
            insort(rooms, left)
            rows_with[left] = []
        rows_with[left].append(row)
    return rows


def efficiency(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Share of the positions that hold an id, if every row is padded to the longest."""
    used = [sum(lengths[example] for example in row) for row in rows]
    return sum(used) / (len(used) * max(used))
