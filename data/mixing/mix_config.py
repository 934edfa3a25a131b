"""How speech is mixed: one frozen dataclass, read from YAML."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...tokenizer.files import read_yaml

Range = tuple[float, float]  # both ends are drawn too

HEARD = {"noisy": "noisy", "mixture": "mixture", "disguised": "source"}  # kind -> prefix of its columns
NOISES = ("recorded", "coloured", "modulated", "babble")
_GENERAL = {"kind", "seed", "copies", "level_db"}
_FIELDS = {
    "noisy": {"noise", "snr_db", "room_probability", "rt60_s"},
    "mixture": {"talkers", "offset_s", "level_difference_db", "noise", "snr_db"},
    "disguised": {"pitch", "formants"},
}
_NEEDED = {"noisy": (), "mixture": ("talkers", "offset_s", "level_difference_db"), "disguised": ("pitch", "formants")}
# Range -> the values that it may span.
_LIMITS = {
    "level_db": (-80.0, 0.0),
    "snr_db": (-60.0, 100.0),
    "rt60_s": (0.1, 1.0),  # what the rooms that are drawn can have with walls of usual materials
    "talkers": (2, 10),
    "offset_s": (0.0, 60.0),
    "level_difference_db": (-40.0, 40.0),
    "pitch": (0.5, 2.0),
    "formants": (0.5, 2.0),
}


@dataclass(frozen=True)
class MixRecipe:
    """What to make of clean speech. A range [low, high] is drawn from uniformly (factors: on a logarithmic scale).

    Levels of speech are active levels: see `levels.active_level_db`.
    """

    kind: str  # "noisy", "mixture" (overlapping talkers) or "disguised" (another pitch and other formants)
    seed: int = 0
    copies: int = 1  # different examples per utterance
    level_db: Range | None = None  # of the target, in dB of full scale; as recorded if not given
    noise: dict[str, float] = field(default_factory=dict)  # kind of noise -> probability; no noise with what is left
    snr_db: Range | None = None  # all the speech that is heard, its room included, against the noise
    room_probability: float = 0.0  # needs the extra `rooms`
    rt60_s: Range | None = None  # reverberation time
    talkers: tuple[int, int] | None = None  # fewest and most
    offset_s: Range | None = None  # by how much the other recordings begin later than that of the utterance
    level_difference_db: Range | None = None  # of the other talkers to that of the utterance
    pitch: Range | None = None  # factor
    formants: Range | None = None  # factor

    def __post_init__(self) -> None:
        if self.kind not in HEARD:
            raise ValueError(f"kind must be one of {', '.join(HEARD)}, found {self.kind!r}")
        if type(self.seed) is not int or type(self.copies) is not int or self.copies < 1:
            raise ValueError(f"seed must be an integer and copies one from 1 on, found {self.seed!r}, {self.copies!r}")
        for name, limits in _LIMITS.items():
            _check_range(name, getattr(self, name), limits)
        self._check_probabilities()
        self._check_contradictions()

    @property
    def heard(self) -> str:
        """What a model hears: "noisy", "mixture" or "source"; its columns begin with it."""
        return HEARD[self.kind]

    def _check_probabilities(self) -> None:
        unknown = sorted(set(self.noise) - set(NOISES))
        if unknown:
            raise ValueError(f"noise knows the kinds {', '.join(NOISES)}, found {unknown}")
        for name, value in {**self.noise, "room_probability": self.room_probability}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability, 0 to 1, found {value!r}")
        if sum(self.noise.values()) > 1 + 1e-9:
            raise ValueError(f"the probabilities of noise must not exceed 1 together, found {self.noise}")

    def _check_contradictions(self) -> None:
        kind, own = self.kind, _FIELDS[self.kind] | _GENERAL
        for f in dataclasses.fields(self):
            if f.name not in own and getattr(self, f.name) not in (None, {}, 0.0):
                owners = " or ".join(other for other in _FIELDS if f.name in _FIELDS[other])
                raise ValueError(f"{f.name} needs kind {owners}, found kind {kind}: remove it or change kind")
        for name in _NEEDED[kind]:
            if getattr(self, name) is None:
                raise ValueError(f"kind {kind} needs {name}, a range such as [low, high]")
        noisy = any(self.noise.values())
        if noisy != (self.snr_db is not None):
            raise ValueError(f"noise and snr_db need each other, found noise {self.noise} and snr_db {self.snr_db}")
        if bool(self.room_probability) != (self.rt60_s is not None):
            raise ValueError(
                "room_probability above 0 and rt60_s need each other, found room_probability "
                f"{self.room_probability} and rt60_s {self.rt60_s}"
            )
        if kind == "noisy" and not noisy and not self.room_probability:
            raise ValueError("kind noisy needs noise or room_probability, found neither: nothing would be mixed")


def read_recipe(path: Path | str) -> MixRecipe:
    """Read a YAML recipe.

    Raises:
        ValueError: an unknown key (named, with the known ones), a value out of range or a contradiction.
    """
    values: Any = read_yaml(path)
    if not isinstance(values, dict) or "kind" not in values:
        raise ValueError(f"{path}: a mixing recipe is a YAML mapping with at least the key kind")
    known = [f.name for f in dataclasses.fields(MixRecipe)]
    unknown = sorted(set(values) - set(known), key=str)
    if unknown:
        raise ValueError(f"{path}: unknown keys {unknown}; a mixing recipe has the keys {known}")
    if not isinstance(values.get("noise", {}), dict):
        raise ValueError(f"{path}: noise must map kinds to probabilities, found {values['noise']!r}")
    try:
        ranges: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return MixRecipe(**ranges)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_range(name: str, value: Any, limits: Range) -> None:
    if value is None:
        return
    kinds: tuple[type, ...] = (int,) if name == "talkers" else (int, float)
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(v) in kinds and math.isfinite(v) for v in value)
    if not whole or not limits[0] <= value[0] <= value[1] <= limits[1]:
        raise ValueError(f"{name} must be [low, high] within {limits[0]} ... {limits[1]}, found {value!r}")
