"""Text and speech on one clock: each unit of a text is followed by its own frames. U units of a text, L ids.

    u0 u1 [frames of u0] u2 [frames of u1] ... <|next|> [frames of the last unit] <|end|>

A unit is read one span before its frames, so that the model knows what follows while it speaks. Where the next unit
stands, `<|next|>` is learnt instead, whichever unit it is: what comes next is given, only *when* has to be chosen. From
a few hours of speech a small model does not learn to find what it is saying in a whole text: docs/lab-notes.md.
"""

from collections.abc import Sequence

from .vocabulary import Vocabulary

IGNORED = -100  # a label that adds nothing to the loss (transformers' convention)


def openings(vocabulary: Vocabulary, units: Sequence[str]) -> list[list[int]]:
    """The ids that are read before the frames of each unit."""
    spelt = [vocabulary.text_ids(unit) for unit in units]
    ahead = [*spelt[1:], [vocabulary.control("next")]]
    return [spelt[0] + ahead[0], *ahead[1:]]


def interleave(
    vocabulary: Vocabulary, units: Sequence[str], codes: Sequence[int], frames: Sequence[int]
) -> tuple[list[int], list[int]]:
    """-> ids and labels, both (L,), without the end

    Args:
        units: (U,) what is said.
        codes: (N * K,) of the codec.
        frames: (U,) how many of the N frames each unit lasts.

    Raises:
        ValueError: frames that are not those of the codes or of the units.
    """
    per_frame = vocabulary.codebooks
    if len(units) != len(frames) or sum(frames) * per_frame != len(codes):
        raise ValueError(
            f"{len(units)} units of {len(frames)} durations, {sum(frames)} frames in all, do not belong to "
            f"{len(codes)} codes of {per_frame} codebooks: align the store again"
        )
    audio = vocabulary.audio_ids(codes)
    ids, labels, start = list[int](), list[int](), 0
    for number, (opening, count) in enumerate(zip(openings(vocabulary, units), frames, strict=True)):
        end = start + int(count) * per_frame
        ids += [*opening, *audio[start:end]]
        first = [vocabulary.control("next")] if number else [IGNORED]
        labels += [*first, *[IGNORED] * (len(opening) - 1), *audio[start:end]]
        start = end
    return ids, labels
