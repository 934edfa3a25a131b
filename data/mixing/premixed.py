"""Recordings in noise and mixtures that were published with their sources -> examples. T samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..example import Example
from ..utterance import Utterance
from .levels import onset_s


class Premixed:
    """A corpus of recordings that know their `sources`, with the calls of a `Mixer`; nothing is drawn.

    Args:
        corpus: from `read_corpus`.

    Raises:
        ValueError: recordings without sources among them.
    """

    def __init__(self, corpus: Sequence[Utterance]) -> None:
        self.rows = list(corpus)
        if clean := [row.id for row in self.rows if not row.sources]:
            raise ValueError(f"{len(clean)} of {len(self.rows)} recordings have no sources, first {clean[0]}")

    @property
    def heard(self) -> str:
        """What a model hears: "noisy" or "mixture"; its columns begin with it."""
        return "mixture" if self.signals > 2 else "noisy"

    @property
    def signals(self) -> int:
        """How many signals an example has at most."""
        return 1 + max(len(row.sources) for row in self.rows)

    def describe(self) -> dict[str, Any]:
        """The section `mix` of a manifest: which of several versions, such as mix_clean and mix_both, was read."""
        return {"kind": self.heard, "folders": sorted({Path(str(row.audio)).parent.name for row in self.rows})}

    def example(self, row: Utterance, sampling_rate: int) -> Example:
        """Read the example of one of `rows`; its talkers in the order of first speech.

        Raises:
            OSError, ValueError: a recording cannot be read, is silent, or not as long as the others.
        """
        heard = row.read(sampling_rate)[0]
        read = [(source, source.read(sampling_rate)[0]) for source in row.sources]
        for source, wave in read:
            if len(wave) != len(heard):
                raise ValueError(
                    f"{source.audio} has {len(wave)} samples and {row.audio} {len(heard)} at {sampling_rate} Hz: a "
                    "source must be as long as what it is part of"
                )
        onsets = [onset_s(wave, sampling_rate) for _, wave in read]
        order = sorted(range(len(read)), key=onsets.__getitem__)
        talkers, waves = zip(*(read[i] for i in order), strict=True)
        mix = {"utterances": [one.id for one in talkers], "onsets_s": [round(onsets[i], 6) for i in order]}
        facts = {
            "utterance": talkers[0].id,
            "mix": json.dumps(mix),
            "texts": [one.text for one in talkers],
            "speakers": [one.speaker for one in talkers],
        }
        item = Utterance(row.id, row.audio, talkers[0].text, talkers[0].speaker, extra=row.extra)
        return Example(item, waves[0], heard, waves[1:], facts)
