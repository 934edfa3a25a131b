"""What a speech LM knows about itself."""

from dataclasses import dataclass
from typing import Any

from .length import LengthWindow
from .templates import Template

INFO_FILE = "speech_lm.json"


@dataclass(frozen=True)
class SpeechLMInfo:
    """What a saved speech LM says about itself (`speech_lm.json`)."""

    templates: tuple[Template, ...] = ()  # the tasks it was trained on
    audio_tokenizer: str = "audio_tokenizer"  # "mini", a hub id, or a path relative to the folder, where a copy stands
    length_window: LengthWindow | None = None  # seconds of speech per character, seen in training
    voices: tuple[str, ...] = ()  # speakers seen in training
    longest_unit_s: float | None = None  # the longest that a unit of text lasted in training, where it is aligned

    def template(self, *names: str) -> Template:
        """The first of these tasks that the model was trained on.

        Raises:
            ValueError: none of them.
        """
        known = {template.name: template for template in self.templates}
        found = next((known[name] for name in names if name in known), None)
        if found is None:
            raise ValueError(
                f"this model was trained for {', '.join(known) or 'nothing'}, not for {' or '.join(names)}: name "
                "another folder, or train one (focallm train)"
            )
        return found

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SpeechLMInfo":
        """What `dataclasses.asdict` made, after JSON."""
        templates = tuple(Template.from_json(template) for template in values["templates"])
        window = values["length_window"]
        return cls(
            templates,
            values["audio_tokenizer"],
            window and LengthWindow(**window),
            tuple(values["voices"]),
            values.get("longest_unit_s"),
        )
