"""The tasks that come with the package, each defined in one place.

A recipe can define a new task with a template under `templates:`, see notebooks/03_a_new_task.ipynb. A new task of the
package, with its own function and command, takes three files:

1. this one: a `TaskDefinition` in `TASKS`, from which training, inference and error messages take what they need;
2. `tasks/inference/NAME.py`, with the function `NAME`, which `focallm.tasks` then exports;
3. `tasks/cli/`, with the command that calls the function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..lm.templates import MAX_REFERENCE_S, Segment, Template


@dataclass(frozen=True)
class TaskDefinition:
    """Everything that the package knows about a task.

    Args:
        template: The segments of a sequence: what the model reads and what it writes.
        example_command: The words after `focallm` that try out a trained model, without its option `--model`.
        tokenize_options: Options of `focallm tokenize` that give a token store the columns of the template.
        data_source: What training reads: the rows of a token store; a text file, line by line; or the lexicon that
            `focallm align` writes into a token store.
        packaged_model: Name of the weights in the package that the model name "mini" means for this task.
    """

    template: Template
    example_command: str | None = None
    tokenize_options: str = ""
    data_source: Literal["token store", "text file", "lexicon"] = "token store"
    packaged_model: str = "mini"

    @property
    def text_fields(self) -> list[str]:
        """Columns of a row that are texts. The transcript of a reference comes from another row."""
        fields = {segment.field for segment in self.template.segments if segment.kind == "text"}
        return sorted(fields - {"reference_text"})

    @property
    def uses_reference_text(self) -> bool:
        """Whether a reference recording comes with its transcript."""
        return "reference_text" in self.template.fields

    @property
    def max_reference_s(self) -> float:
        """The longest duration of a reference recording in seconds.

        A reference with a transcript cannot be cut, so longer recordings are not used. Any other reference is cut to
        this duration.
        """
        return 6.0 if self.uses_reference_text else MAX_REFERENCE_S


_NOISY = "--mix configs/mix/enhancement.yaml"
_MIXTURE = "--mix configs/mix/separation_2.yaml"
_CODES = Segment("codes", "speech", "codes", target=True)
_STREAMS = Segment("codes", "speech", "sources", target=True, streams=True)
_ALIGNED = Segment("aligned", "speech", "codes", target=True)
_TEXT_TARGET = Segment("text", "text", "text", target=True)
_TEXT = Segment("text", "text", "text")
_VOICE = Segment("text", "voice", "speaker")
_REFERENCE_TEXT = Segment("text", "reference", "reference_text")
_REFERENCE = Segment("codes", "reference", "reference_codes")

_DEFINITIONS = (
    TaskDefinition(
        Template("tts", (_VOICE, _TEXT, _CODES)),
        example_command="speak 'Good morning, everyone.'",
    ),
    TaskDefinition(
        Template("zero-shot", (_REFERENCE_TEXT, _REFERENCE, _TEXT, _CODES)),
        example_command="speak 'Good morning, everyone.' --reference VOICE --reference-text 'What it says.'",
    ),
    TaskDefinition(
        Template("se", (Segment("codes", "noisy", "noisy_codes"), _CODES)),
        example_command="enhance NOISY clean.wav",
        tokenize_options=_NOISY,
        packaged_model="mini-rewriting",
    ),
    TaskDefinition(
        Template("se-features", (Segment("features", "noisy", "noisy_features"), _CODES)),
        example_command="enhance NOISY clean.wav",
        tokenize_options=f"{_NOISY} --features",
        packaged_model="mini-rewriting",
    ),
    TaskDefinition(
        Template("ss", (Segment("codes", "mixture", "mixture_codes"), _STREAMS)),
        example_command="separate MIXTURE speaker.wav",
        tokenize_options=_MIXTURE,
        packaged_model="mini-rewriting",
    ),
    TaskDefinition(
        Template("ss-features", (Segment("features", "mixture", "mixture_features"), _STREAMS)),
        example_command="separate MIXTURE speaker.wav",
        tokenize_options=f"{_MIXTURE} --features",
        packaged_model="mini-rewriting",
    ),
    TaskDefinition(
        Template("vc", (Segment("codes", "source", "source_codes"), _REFERENCE, _CODES)),
        example_command="convert SPEECH VOICE out.wav",
        tokenize_options="--mix configs/mix/conversion.yaml",
    ),
    TaskDefinition(
        Template("asr", (Segment("codes", "speech", "codes"), _TEXT_TARGET)),
        example_command="transcribe SPEECH",
    ),
    TaskDefinition(
        Template("continuation", (_CODES,)),
        example_command="continue SPEECH out.wav",
    ),
    TaskDefinition(
        Template("text", (_TEXT_TARGET,)),
        data_source="text file",
    ),
    TaskDefinition(
        Template("tts-aligned", (_VOICE, _ALIGNED)),
        example_command="speak 'Good morning, everyone.'",
    ),
    TaskDefinition(
        Template("zero-shot-aligned", (_REFERENCE, _ALIGNED)),
        example_command="speak 'Good morning, everyone.' --reference VOICE",
    ),
    TaskDefinition(
        Template("pronounce", (_TEXT, Segment("text", "text", "phonemes", target=True))),
        data_source="lexicon",
    ),
)

# Templates that speak: those of aligned speech are preferred.
NAMED_VOICE_TASKS = ("tts-aligned", "tts")
REFERENCE_TASKS = ("zero-shot-aligned", "zero-shot")

TASKS = {definition.template.name: definition for definition in _DEFINITIONS}
TEMPLATES = {name: definition.template for name, definition in TASKS.items()}


def find_task(name: str, templates: Sequence[Template] = ()) -> TaskDefinition:
    """Find a task by name.

    Args:
        name: The task.
        templates: Templates of a recipe. One that has the name of a task of the package replaces its template.

    Raises:
        ValueError: No task has this name.
    """
    for template in templates:
        if template.name == name and name in TASKS:
            return replace(TASKS[name], template=template)
        if template.name == name:
            return TaskDefinition(template, tokenize_options=_tokenize_options(template))
    if name not in TASKS:
        names = [*TASKS, *(template.name for template in templates)]
        raise ValueError(
            f"no task is called {name!r}: choose one of {', '.join(names)}, or define it under templates: in the recipe"
        )
    return TASKS[name]


def _tokenize_options(template: Template) -> str:
    """Return the options of the first task of the package that reads the same special column as a recipe's template."""
    options = ""
    for definition in TASKS.values():
        special_fields = {definition.template.segments[0].field}
        if definition.template.target.streams:
            special_fields.add(definition.template.target.field)
        if not options and not special_fields.isdisjoint(template.fields):
            options = definition.tokenize_options
    if template.uses_features and "--features" not in options:
        options = f"{options} --features".strip()
    return options
