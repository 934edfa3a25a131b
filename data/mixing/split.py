"""Split the speech and the noise of a corpus before they are mixed, so that a training can evaluate on unheard speech.

If mixtures were split instead, most of those to evaluate on would contain recordings that others are trained on.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..utterance import Utterance
from .mix_config import MixConfig


@dataclass(frozen=True)
class Part:
    """Recordings that are mixed only with each other.

    Args:
        corpus: speech.
        noise: indices of the recordings of noise.
    """

    corpus: Sequence[Utterance]
    noise: Sequence[int]


def split_corpus(config: MixConfig, corpus: Sequence[Utterance], noise: Sequence[Utterance]) -> tuple[Part, Part]:
    """Split speech and noise into a part for training and one that is held out from it.

    Args:
        config: how the parts will be mixed. Its `held_out` is the share of the second part, which gets enough speakers
            for an example in any case. Its `seed` decides about the choice.
        corpus: speech.
        noise: recordings of noise. A single one is in both parts.

    Returns:
        The part for training and the other one, which is empty if the recipe holds nothing out, mixes no recordings
        with each other, or needs more speakers than there are for both parts.
    """
    everything = range(len(noise))
    held_out_ids = _choose_utterances(config, corpus)
    if not held_out_ids:
        return Part(corpus, everything), Part((), everything)
    training = [utterance for utterance in corpus if utterance.id not in held_out_ids]
    held_out = [utterance for utterance in corpus if utterance.id in held_out_ids]
    if len(noise) < 2:
        return Part(training, everything), Part(held_out, everything)
    order = sorted(everything, key=lambda index: _hash(config.seed, noise[index].id))
    num_held_out = min(max(1, round(config.held_out * len(noise))), len(noise) - 1)
    return Part(training, order[num_held_out:]), Part(held_out, order[:num_held_out])


def _choose_utterances(config: MixConfig, corpus: Sequence[Utterance]) -> set[str]:
    """Return the ids of the utterances to hold out."""
    if not config.held_out or not config.uses_other_recordings:
        return set()
    wanted = max(round(config.held_out * len(corpus)), config.min_speakers)
    speakers: set[str] = set()
    chosen: set[str] = set()
    # How many utterances of each speaker are left for training.
    num_left = Counter(map(speaker_key, corpus))
    for utterance in sorted(corpus, key=lambda utterance: _hash(config.seed, utterance.id)):
        speaker = speaker_key(utterance)
        # Once there are enough utterances, only further speakers may be lacking.
        is_needed = len(chosen) < wanted or (len(speakers) < config.min_speakers and speaker not in speakers)
        is_last = num_left[speaker] == 1
        if is_needed and not (is_last and len(num_left) <= config.min_speakers):
            chosen.add(utterance.id)
            speakers.add(speaker)
            num_left[speaker] -= 1
            if is_last:
                del num_left[speaker]
    return chosen if len(speakers) >= config.min_speakers else set()


def speaker_key(utterance: Utterance) -> str:
    """Return a key of the speaker. Each utterance without a speaker counts as a different one."""
    return f"utterance {utterance.id}" if utterance.speaker is None else f"speaker {utterance.speaker}"


def connect(mixtures: Iterable[Sequence[str]]) -> dict[str, str]:
    """Find the recordings that mixtures connect, directly or through others. A split must keep them together.

    Args:
        mixtures: ids of the recordings in each mixture.

    Returns:
        For the id of each recording the first id among those that it is connected with.
    """
    group_of: dict[str, set[str]] = {}
    for ids in mixtures:
        groups = [group_of.setdefault(name, {name}) for name in ids]
        largest = max(groups, key=len)
        for group in groups:
            if group is not largest:
                largest |= group
                group_of.update(dict.fromkeys(group, largest))
    first_ids: dict[int, str] = {}
    for group in group_of.values():
        # Its members share one set, whose first id is looked up once.
        if id(group) not in first_ids:
            first_ids[id(group)] = min(group)
    return {name: first_ids[id(group)] for name, group in group_of.items()}


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
