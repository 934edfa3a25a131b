"""What a corpus consists of, short enough for a model card, and a hash that says whether two are the same."""

import hashlib
from collections.abc import Sequence
from typing import Any

from .utterance import Utterance


def summarise(items: Sequence[Utterance]) -> dict[str, Any]:
    """-> number, hours, a hash of the list, and the same for each `licence` and `source` that the corpus names

    The hash is of ids, durations in ms and texts, in their order: not of the samples.
    """
    digest = hashlib.sha256()
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for item in items:
        seconds = item.duration() or 0.0
        digest.update(f"{item.id}\t{round(1000 * seconds)}\t{item.text or ''}\n".encode())
        key = (item.extra.get("source") or "not named", item.extra.get("licence") or "not named")
        groups.setdefault(key, []).append((seconds, item.speaker or ""))
    return {
        "utterances": len(items),
        "hours": round(sum(seconds for group in groups.values() for seconds, _ in group) / 3600, 3),
        "sha256": digest.hexdigest(),
        "groups": [
            {
                "source": source,
                "licence": licence,
                "utterances": len(group),
                "hours": round(sum(seconds for seconds, _ in group) / 3600, 3),
                "speakers": len({speaker for _, speaker in group}),
            }
            for (source, licence), group in sorted(groups.items())
        ],
    }
