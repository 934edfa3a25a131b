"""Clean utterances -> mixed examples. T samples; every signal of an example has as many."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...tokenizer.audio import Waveform
from ..example import Example
from ..utterance import Utterance
from . import noise as noises
from .disguise import disguise
from .levels import active_level_db, amplify, level_db, onset_s
from .mix_config import MixRecipe, Range
from .rooms import check_extra, reverberate

_BABBLE = (4, 8)  # voices
_RECORDINGS_KEPT = 24  # noise recordings in memory: they last minutes, and are drawn again and again

Facts = dict[str, Any]


class Mixer:
    """A corpus as noisy, overlapping or disguised speech; stands in for the corpus in `tokenize_corpus`.

    An example depends on the recipe, the corpora and the row's id, and on nothing else.

    Args:
        recipe: what to make.
        corpus: clean speech, from `read_corpus`; talkers of mixtures and babble come from it, too.
        noise: recordings without speech, from `read_corpus`; if the recipe wants some.

    Raises:
        ImportError: rooms without the extra that simulates them.
        ValueError: noise that the recipe wants is missing, or the other way round; too few speakers; speech that is
            mixed already.
    """

    def __init__(self, recipe: MixRecipe, corpus: Sequence[Utterance], noise: Sequence[Utterance] = ()) -> None:
        self.recipe, self.corpus, self.noise = recipe, list(corpus), list(noise)
        self.rows = [
            dataclasses.replace(item, id=f"{item.id}-{copy}") for item in corpus for copy in range(recipe.copies)
        ]
        self._check()
        self._recording = lru_cache(_RECORDINGS_KEPT)(lambda index, rate: _read(self.noise[index], rate))

    @property
    def heard(self) -> str:
        """What a model hears: "noisy", "mixture" or "source"; its columns begin with it."""
        return self.recipe.heard

    @property
    def signals(self) -> int:
        """How many signals an example has at most."""
        return 2 if self.recipe.talkers is None else 1 + self.recipe.talkers[1]

    def describe(self) -> dict[str, Any]:
        """The section `mix` of a manifest: with the same values, and of the same corpus, examples are the same."""
        known = json.dumps([[item.id, item.seconds] for item in self.noise])
        recipe = json.loads(json.dumps(dataclasses.asdict(self.recipe)))  # as it will be read again
        return {**recipe, "noise_sha256": hashlib.sha256(known.encode()).hexdigest() if self.noise else None}

    def example(self, row: Utterance, sampling_rate: int) -> Example:
        """Make the example of one of `rows`.

        Raises:
            OSError, ValueError: the utterance, or a recording drawn for it, cannot be read or is silent.
        """
        key = hashlib.sha256(f"{self.recipe.seed}:{row.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        utterance = dataclasses.replace(row, id=row.id.rpartition("-")[0])
        make = {"noisy": self._noisy, "mixture": self._mixture, "disguised": self._disguised}[self.recipe.kind]
        example = make(utterance, sampling_rate, rng)
        facts = {"utterance": utterance.id, **example.facts}
        named = dataclasses.replace(example, item=dataclasses.replace(example.item, id=row.id), facts=facts)
        return self._finish(named, sampling_rate, rng)

    def _noisy(self, utterance: Utterance, rate: int, rng: np.random.Generator) -> Example:
        target = _read(utterance, rate)
        speech, facts = target, Facts()
        if rng.random() < self.recipe.room_probability:
            facts["rt60_s"] = _draw(self.recipe.rt60_s, rng)
            speech, facts["distance_m"] = reverberate(target, rate, facts["rt60_s"], rng)
        heard = self._add_noise(speech, [utterance], rate, rng, facts)
        return Example(utterance, target, heard, facts={"mix": facts})

    def _mixture(self, utterance: Utterance, rate: int, rng: np.random.Generator) -> Example:
        recipe = self.recipe
        assert recipe.talkers is not None
        count = int(rng.integers(recipe.talkers[0], recipe.talkers[1] + 1))
        talkers = [utterance]
        while len(talkers) < count:
            talkers.append(self._draw_other(talkers, rng))
        waves = [_read(talker, rate) for talker in talkers]
        gains, starts = [0.0], [0]
        for wave in waves[1:]:
            difference = _draw(recipe.level_difference_db, rng)
            gains.append(active_level_db(waves[0], rate) + difference - active_level_db(wave, rate))
            starts.append(round(_draw(recipe.offset_s, rng) * rate))
        length = max(start + len(wave) for start, wave in zip(starts, waves, strict=True))
        placed = [
            np.pad(amplify(wave, gain), (start, length - start - len(wave)))
            for wave, gain, start in zip(waves, gains, starts, strict=True)
        ]
        onsets = [onset_s(wave, rate) for wave in placed]
        order = sorted(range(count), key=onsets.__getitem__)  # who is heard first, not whose recording begins first
        facts = {
            "utterances": [talkers[i].id for i in order],
            "offsets_s": [starts[i] / rate for i in order],
            "onsets_s": [onsets[i] for i in order],
            "gains_db": [gains[i] for i in order],
        }
        first, *others = [placed[i] for i in order]
        heard = self._add_noise(np.sum(placed, axis=0, dtype=np.float32), talkers, rate, rng, facts)
        names = {"texts": [talkers[i].text for i in order], "speakers": [talkers[i].speaker for i in order]}
        return Example(talkers[order[0]], first, heard, tuple(others), {"mix": facts, **names})

    def _disguised(self, utterance: Utterance, rate: int, rng: np.random.Generator) -> Example:
        target = _read(utterance, rate)
        pitch, formants = _draw_factor(self.recipe.pitch, rng), _draw_factor(self.recipe.formants, rng)
        heard = disguise(target, rate, pitch, formants, rng)
        return Example(utterance, target, heard, facts={"mix": {"pitch": pitch, "formants": formants}})

    def _add_noise(
        self, speech: Waveform, talkers: list[Utterance], rate: int, rng: np.random.Generator, facts: Facts
    ) -> Waveform:
        """Speech in noise of a kind, and at a ratio, that are drawn and written into `facts`; or the speech alone."""
        probabilities = self.recipe.noise
        kinds = [*probabilities, None]
        kind = kinds[int(np.searchsorted(np.cumsum(list(probabilities.values())), rng.random(), side="right"))]
        facts["noise"] = kind
        if kind is None:
            return speech
        noise, facts["noise_id"] = self._draw_noise(kind, len(speech), talkers, rate, rng)
        snr_db = facts["snr_db"] = _draw(self.recipe.snr_db, rng)
        return speech + amplify(noise, active_level_db(speech, rate) - snr_db - level_db(noise))

    def _draw_noise(
        self, kind: str, length: int, talkers: list[Utterance], rate: int, rng: np.random.Generator
    ) -> tuple[Waveform, str | list[str]]:
        """-> (length,) and what it is, in the words of its kind"""
        if kind == "coloured":
            return noises.coloured(length, rate, rng)
        if kind == "modulated":
            return noises.modulated(length, rate, rng)
        if kind == "recorded":
            index = int(rng.integers(len(self.noise)))
            return noises.cut(self._recording(index, rate), length, rate, rng), self.noise[index].id
        voices = [self._draw_other(talkers, rng) for _ in range(rng.integers(_BABBLE[0], _BABBLE[1] + 1))]
        return noises.babble([_read(voice, rate) for voice in voices], length, rate, rng), [v.id for v in voices]

    def _draw_other(self, talkers: list[Utterance], rng: np.random.Generator) -> Utterance:
        """An utterance of somebody else; `_check` has made sure that there is one."""
        taken = {_voice(talker) for talker in talkers}
        while _voice(other := self.corpus[int(rng.integers(len(self.corpus)))]) in taken:
            pass
        return other

    def _finish(self, example: Example, rate: int, rng: np.random.Generator) -> Example:
        """Bring all signals to the level that is drawn, together, and below full scale; write out the facts."""
        gain_db = 0.0
        if self.recipe.level_db is not None:
            gain_db = _draw(self.recipe.level_db, rng) - active_level_db(example.target, rate)
        peak_db = 20 * np.log10(max(np.abs(signal).max() for signal in example.signals))
        gain_db = min(gain_db, -float(peak_db))
        target, heard, *others = [amplify(signal, gain_db) for signal in example.signals]
        facts = {**example.facts, "mix": json.dumps(_rounded({**example.facts["mix"], "gain_db": gain_db}))}
        return Example(example.item, target, heard, tuple(others), facts)

    def _check(self) -> None:
        recipe = self.recipe
        if mixed := [item.id for item in self.corpus if item.sources]:
            raise ValueError(
                f"the corpus was mixed by those who published it ({mixed[0]} has its sources): leave out --mix, or "
                "name a folder of clean speech"
            )
        recorded, babble = recipe.noise.get("recorded", 0) > 0, recipe.noise.get("babble", 0) > 0
        if recorded and not self.noise:
            raise ValueError(
                "the recipe draws recorded noise and none was given: name a folder with --noise, or set noise.recorded "
                "to 0"
            )
        if self.noise and not recorded:
            raise ValueError("noise recordings were given with --noise, but noise.recorded of the recipe is 0")
        if recipe.room_probability:
            check_extra()
        if recipe.kind == "mixture" and (unnamed := [item.id for item in self.corpus if item.speaker is None]):
            raise ValueError(
                f"a mixture is of different speakers, and {len(unnamed)} utterances name none, first {unnamed[0]}: add "
                "a column speaker to the corpus' manifest"
            )
        needed = (recipe.talkers or (1, 1))[1] + babble
        voices = len({_voice(item) for item in self.corpus})
        if 0 < voices < needed:
            wanted = f"{(recipe.talkers or (1, 1))[1]} talkers" + " and another speaker for babble" * babble
            raise ValueError(
                f"the recipe mixes {wanted}, and the corpus has {voices} speaker(s): add recordings of others, or "
                "lower talkers or set noise.babble to 0 in the recipe"
            )


def _voice(item: Utterance) -> str:
    """The speaker; whoever is not named counts as somebody else each time."""
    return f"utterance {item.id}" if item.speaker is None else f"speaker {item.speaker}"


def _read(item: Utterance, rate: int) -> Waveform:
    """(T,); errors say which recording it is, since an example may need several"""
    try:
        wave, _ = item.read(rate)
        active_level_db(wave, rate)
    except ValueError as error:
        raise ValueError(f"{item.audio}: {error}") from None
    return wave


def _draw(limits: Range | None, rng: np.random.Generator) -> float:
    assert limits is not None, "the recipe has checked that"
    return float(rng.uniform(*limits))


def _draw_factor(limits: Range | None, rng: np.random.Generator) -> float:
    assert limits is not None, "the recipe has checked that"
    return float(np.exp(rng.uniform(*np.log(limits))))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
