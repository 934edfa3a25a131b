"""Settings of a `Mixer`, read from YAML with `load_config(MixConfig, path)`."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

Range = tuple[float, float]  # lowest and highest value, both included
Kind = Literal["noisy", "mixture", "pitch_shifted"]

# What the model's input is called; the columns of a token store that hold it start with this word.
INPUT_NAMES = {"noisy": "noisy", "mixture": "mixture", "pitch_shifted": "source"}
NOISE_KINDS = ("recorded", "colored", "modulated", "babble")

_COMMON_FIELDS = {"kind", "seed", "copies", "held_out", "level_db"}
_FIELDS_OF_KIND = {
    "noisy": {"noise", "snr_db", "room_probability", "rt60_s"},
    "mixture": {"num_speakers", "offset_s", "level_difference_db", "noise", "snr_db"},
    "pitch_shifted": {"pitch", "formants"},
}
_REQUIRED_FIELDS = {
    "noisy": (),
    "mixture": ("num_speakers", "offset_s", "level_difference_db"),
    "pitch_shifted": ("pitch", "formants"),
}
# The lowest and highest value that a range may contain.
_LIMITS = {
    "level_db": (-80.0, 0.0),
    "snr_db": (-60.0, 100.0),
    "rt60_s": (0.1, 1.0),  # what simulated rooms reach with walls of usual materials
    "num_speakers": (2, 10),
    "offset_s": (0.0, 60.0),
    "level_difference_db": (-40.0, 40.0),
    "pitch": (0.5, 2.0),
    "formants": (0.5, 2.0),
}


@dataclass(frozen=True)
class MixConfig:
    """How to turn clean speech into the input of a speech task.

    A range [low, high] is drawn from uniformly (`pitch` and `formants`: uniformly on a logarithmic scale). Levels of
    speech are active levels, which ignore pauses: see `noise.active_level_db`.

    Args:
        kind: "noisy", "mixture" (overlapping speakers) or "pitch_shifted" (changed pitch and formants).
        seed: seed of all draws.
        copies: number of different examples per utterance.
        held_out: share of the utterances, and of the noise recordings, that are mixed only with each other. A training
            evaluates on them, so that nothing it hears there was in its training data.
        level_db: level of the target in dB of full scale. None keeps the level of the recording.
        noise: probability of each kind of noise. If they sum to less than 1, the rest gets no noise.
        snr_db: level of the speech, reverberation included, relative to the noise.
        room_probability: probability of reverberation. Needs the extra `focallm[rooms]`.
        rt60_s: reverberation time.
        num_speakers: lowest and highest number of speakers in a mixture.
        offset_s: how much later the other recordings start than that of the utterance.
        level_difference_db: level of the other speakers relative to that of the utterance.
        pitch: factor on the pitch.
        formants: factor on the formant frequencies.

    Raises:
        ValueError: A value is out of range, or two fields contradict each other.
    """

    kind: Kind
    seed: int = 0
    copies: int = 1
    held_out: float = 0.05
    level_db: Range | None = None
    noise: dict[str, float] = field(default_factory=dict)
    snr_db: Range | None = None
    room_probability: float = 0.0
    rt60_s: Range | None = None
    num_speakers: tuple[int, int] | None = None
    offset_s: Range | None = None
    level_difference_db: Range | None = None
    pitch: Range | None = None
    formants: Range | None = None

    def __post_init__(self) -> None:
        if self.kind not in INPUT_NAMES:
            raise ValueError(f"kind must be one of {', '.join(INPUT_NAMES)}, found {self.kind!r}")
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, found {self.copies}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be a share of the corpus, 0 to 1 (excluded), found {self.held_out!r}")
        for name, limits in _LIMITS.items():
            _check_range(name, getattr(self, name), limits)
        self._check_probabilities()
        self._check_fields_of_kind()
        self._check_contradictions()

    @property
    def input_name(self) -> str:
        """What the model's input is called: "noisy", "mixture" or "source"."""
        return INPUT_NAMES[self.kind]

    @property
    def max_speakers(self) -> int:
        """Highest number of speakers in an example."""
        return 1 if self.num_speakers is None else self.num_speakers[1]

    @property
    def min_speakers(self) -> int:
        """Lowest number of speakers in a corpus from which any example can be mixed."""
        return self.max_speakers + (self.noise.get("babble", 0) > 0)

    @property
    def uses_other_recordings(self) -> bool:
        """Whether examples contain other recordings than that of their utterance."""
        return self.min_speakers > 1 or self.noise.get("recorded", 0) > 0

    def for_evaluation(self) -> "MixConfig":
        """Return the same settings for a corpus that is only evaluated on, of which nothing is held out."""
        return dataclasses.replace(self, held_out=0.0)

    def _check_probabilities(self) -> None:
        unknown = sorted(set(self.noise) - set(NOISE_KINDS))
        if unknown:
            raise ValueError(f"noise must map {', '.join(NOISE_KINDS)} to probabilities, found {unknown}")
        for name, probability in {**self.noise, "room_probability": self.room_probability}.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} must be a probability, 0 to 1, found {probability!r}")
        # The tolerance allows for rounding, as in 0.6 + 0.1 + 0.1 + 0.2.
        if sum(self.noise.values()) > 1 + 1e-9:
            raise ValueError(f"the probabilities of noise must sum to at most 1, found {self.noise}")

    def _check_fields_of_kind(self) -> None:
        allowed = _FIELDS_OF_KIND[self.kind] | _COMMON_FIELDS
        for config_field in dataclasses.fields(self):
            name = config_field.name
            is_set = getattr(self, name) not in (None, {}, 0.0)
            if is_set and name not in allowed:
                kinds = [kind for kind, names in _FIELDS_OF_KIND.items() if name in names]
                raise ValueError(
                    f"{name} needs kind {' or '.join(kinds)}, found kind {self.kind}: remove {name} or change kind"
                )
        for name in _REQUIRED_FIELDS[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"kind {self.kind} needs {name}, a range such as [low, high]")

    def _check_contradictions(self) -> None:
        has_noise = any(self.noise.values())
        if has_noise != (self.snr_db is not None):
            raise ValueError(f"noise and snr_db need each other, found noise {self.noise} and snr_db {self.snr_db}")
        if bool(self.room_probability) != (self.rt60_s is not None):
            raise ValueError(
                "room_probability above 0 and rt60_s need each other, found room_probability "
                f"{self.room_probability} and rt60_s {self.rt60_s}"
            )
        if self.kind == "noisy" and not has_noise and not self.room_probability:
            raise ValueError("kind noisy needs noise or room_probability, found neither: nothing would be mixed")


def _check_range(name: str, value: Any, limits: Range) -> None:
    if value is None:
        return
    low, high = value
    is_ordered = math.isfinite(low) and math.isfinite(high) and low <= high
    if not is_ordered or low < limits[0] or high > limits[1]:
        raise ValueError(f"{name} must be [low, high] within {limits[0]} ... {limits[1]}, found {value!r}")
