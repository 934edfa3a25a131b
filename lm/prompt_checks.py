"""Check the prompts that a model gets, and make prompts of plain ids. L length in ids."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from .features import max_positions
from .templates import Phase, Prompt


def as_prompt(
    prompt: Prompt | Sequence[int] | Tensor, length: tuple[int, int] | None, model: PreTrainedModel, end_id: int
) -> Prompt:
    """Return a `Prompt` unchanged; turn plain ids into a prompt for one span of codes.

    Args:
        prompt: a prompt or (L,) ids.
        length: minimum and maximum number of ids to write, for plain ids only. By default the maximum is what the
            positions of the model allow.
        model: the model that will read the prompt.
        end_id: the id that closes the span.

    Raises:
        ValueError: the prompt is a text, holds ids outside of the vocabulary, or comes with an empty length window or
            with a length that it states itself.
    """
    if isinstance(prompt, str):
        raise ValueError("a prompt is a list of ids, found a text: make a prompt with Template.prompt")
    if isinstance(prompt, Prompt):
        if length is not None:
            raise ValueError("a Prompt already states its lengths: pass length to Template.prompt instead")
        return prompt
    ids = list(map(int, prompt))
    vocab_size = model.config.get_text_config().vocab_size
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(
                f"ids are rows of the vocabulary, 0 to {vocab_size - 1}, found {i}: it may belong to another model"
            )
    min_length, max_length = length or (1, max_positions(model) - len(ids))
    if not 1 <= min_length <= max_length:
        raise ValueError(f"length needs 1 <= min_length <= max_length audio ids, found {(min_length, max_length)}")
    return Prompt(ids, (Phase("codes", min_length, max_length, end_id),))


def check_prompt(model: PreTrainedModel, prompt: Prompt, is_guided: bool) -> None:
    """Refuse a prompt that a model cannot continue.

    Raises:
        ValueError: the prompt is empty, it and its longest output exceed the model's positions, or guidance is on and
            it has no unconditional ids.
    """
    limit = max_positions(model)
    if not prompt.ids:
        raise ValueError("a prompt needs at least one id: make it with a template, which opens the target")
    if len(prompt.ids) + prompt.max_new_ids > limit:
        raise ValueError(
            f"a prompt of {len(prompt.ids)} ids and up to {prompt.max_new_ids} ids after it exceed the model's "
            f"{limit} positions: shorten the prompt, or lower the maximum length"
        )
    if is_guided and prompt.unconditional is None:
        raise ValueError("guidance needs a prompt with unconditional ids: make it with a template")


def check_streamable(prompts: Sequence[Prompt], chunk: int) -> None:
    """Refuse prompts whose output is no codes, and chunks without any.

    Raises:
        ValueError: a prompt asks only for text, or a chunk is shorter than one code.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 code, found {chunk}")
    for prompt in prompts:
        if all(phase.kind != "codes" for phase in prompt.phases):
            raise ValueError("this prompt asks only for text, and only codes can be streamed: call generate instead")
