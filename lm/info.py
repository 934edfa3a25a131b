"""Metadata of a speech LM: its tasks, its codec, its voices, and the lengths of speech and text."""

import math
from dataclasses import dataclass
from typing import Any

from ..tokenizer.configs import brief, load_config
from .templates import Prompt, Template

INFO_FILE = "speech_lm.json"
# Upper bound of the text ids per second of speech: the characters of very fast speech.
TEXT_RATE = 30
# Seconds that no character and no unit takes, and speakers that no mixture has.
_MAX_PACE_S = 1000
_MAX_SPEAKERS = 100


@dataclass(frozen=True)
class LengthWindow:
    """How long the speech for a text may be: the pace of a corpus, in seconds per character.

    Args:
        fastest: 1st percentile of the corpus.
        slowest: 99th percentile of the corpus.
    """

    fastest: float
    slowest: float

    def __post_init__(self) -> None:
        if not 0 <= self.fastest <= self.slowest < _MAX_PACE_S:
            raise ValueError(
                f"fastest and slowest must rise from 0 to {_MAX_PACE_S} s, found {self.fastest} and {self.slowest}"
            )

    @classmethod
    def from_corpus(cls, characters: list[int], seconds: list[float]) -> "LengthWindow":
        """Measure the pace of a corpus from the lengths of its texts and recordings."""
        paces = sorted(s / max(c, 1) for c, s in zip(characters, seconds, strict=True))
        num_outliers = len(paces) // 100
        return cls(paces[num_outliers], paces[-1 - num_outliers])

    def tokens(self, characters: int, tokens_per_second: float) -> tuple[int, int]:
        """Return the minimum and maximum number of tokens for a text.

        The minimum is half of the fastest reading. The maximum is one and a half times the slowest, and a second.
        """
        min_tokens = 0.5 * self.fastest * characters * tokens_per_second
        max_tokens = (1.5 * self.slowest * characters + 1.0) * tokens_per_second
        return max(1, math.floor(min_tokens)), math.ceil(max_tokens)


def text_window(seconds: float) -> tuple[int, int]:
    """Return the minimum and maximum number of ids of the text of a recording."""
    return 0, 20 + round(TEXT_RATE * seconds)


# What to call, by the control of the first segment that is read.
_CALLS = {
    "voice": "focallm.speak(text, model=lm)",
    "text": "focallm.speak(text, model=lm)",
    "reference": "focallm.speak(text, reference=audio, model=lm)",
    "noisy": "focallm.enhance(audio, model=lm)",
    "mixture": "focallm.separate(audio, model=lm)",
    "source": "focallm.convert(audio, reference, model=lm)",
}


def _call(template: Template) -> str | None:
    """Return the function of the package for a task; None for tasks that are part of others, and tasks of recipes."""
    first = template.segments[0]
    if template.target.kind == "text":
        return "focallm.transcribe(audio, model=lm)" if first.kind in ("codes", "features") else None
    if len(template.segments) == 1 and first.kind == "codes":
        return "focallm.continue_speech(audio, model=lm)"
    if first.field == "reference_text":
        return "focallm.speak(text, reference=audio, reference_text=transcript, model=lm)"
    return _CALLS.get(first.control)


@dataclass(frozen=True)
class SpeechLMInfo:
    """Description of a speech LM, saved as `speech_lm.json`.

    Args:
        templates: the tasks that the model was trained on.
        audio_tokenizer: where the codec is: "mini", a hub id, or a path relative to the folder of the model.
        length_window: pace of the training corpus, for models that speak.
        voices: names of the speakers in training, the most frequent first.
        longest_unit_s: longest duration of a unit in training, in seconds, for models of aligned speech.
        max_speakers: highest number of speakers in a mixture of training, for models that separate.
    """

    templates: tuple[Template, ...] = ()
    audio_tokenizer: str = "audio_tokenizer"
    length_window: LengthWindow | None = None
    voices: tuple[str, ...] = ()
    longest_unit_s: float | None = None
    max_speakers: int | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the model was trained on."""
        return [template.name for template in self.templates]

    def template(self, *names: str) -> Template:
        """Return the first of the named tasks that the model was trained on.

        Raises:
            ValueError: the model was trained on none of them.
        """
        for name in names:
            if name in self.tasks:
                return self.templates[self.tasks.index(name)]
        raise ValueError(
            f"this model was trained for {', '.join(self.tasks) or 'nothing'}, not for {' or '.join(names)}: name "
            "another folder, or train one (focallm train)"
        )

    def __post_init__(self) -> None:
        if self.longest_unit_s is not None and not 0 < self.longest_unit_s < _MAX_PACE_S:
            raise ValueError(f"longest_unit_s must lie between 0 and {_MAX_PACE_S}, found {self.longest_unit_s}")
        if self.max_speakers is not None and not 1 <= self.max_speakers <= _MAX_SPEAKERS:
            raise ValueError(f"max_speakers must lie between 1 and {_MAX_SPEAKERS}, found {self.max_speakers}")

    @property
    def calls(self) -> list[str]:
        """The functions of the package that the tasks of the model are for, such as `focallm.speak(text, model=lm)`."""
        calls = dict.fromkeys(map(_call, self.templates))
        return [call for call in calls if call]

    @property
    def reads_plain_text(self) -> bool:
        """Whether `pipeline("text-to-speech")` of transformers can speak with the model: it reads just a text."""
        for template in self.templates:
            kinds = [segment.kind for segment in template.segments[:-1] if segment.control != "voice"]
            if kinds == ["text"] and template.target.kind == "codes":
                return True
        return False

    @property
    def writes_only_aligned_speech(self) -> bool:
        """Whether the model writes speech, and always phoneme by phoneme."""
        kinds = {template.target.kind for template in self.templates}
        return "aligned" in kinds and "codes" not in kinds

    def check_prompt(self, prompt: Prompt) -> None:
        """Refuse a prompt that would make the model babble.

        Raises:
            ValueError: the model writes only aligned speech, and the prompt asks for codes without phonemes.
        """
        is_free = any(phase.kind == "codes" and not phase.timed for phase in prompt.phases)
        if is_free and self.writes_only_aligned_speech:
            raise ValueError(
                "this model writes speech phoneme by phoneme, and the prompt asks for codes without phonemes, which "
                "would be babble: call focallm.speak(text, model=...)"
            )

    @classmethod
    def from_json(cls, values: Any, name: str = INFO_FILE) -> "SpeechLMInfo":
        """Make the description from what `dataclasses.asdict` gives, after JSON.

        Args:
            values: a mapping.
            name: what error messages call it.

        Raises:
            ValueError: a value is missing, unknown or of a wrong type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{name} must hold the description of a speech LM, found {brief(values)}")
        if "templates" not in values:
            raise ValueError(f"{name} does not describe a speech LM: it lacks templates")
        return load_config(cls, values, name)
