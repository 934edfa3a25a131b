"""Systems to evaluate: recordings, the codec ceiling, baselines and models. T samples."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...data.mixing.mixer import Mixer, Premixed
from ...data.token_store import weights_hash
from ...data.utterance import AudioExample, Utterance
from ...lm import SpeechLM
from ...tokenizer import AudioTokenizer, resample
from ..inference.enhance import enhance
from ..inference.inputs import InputKind, task_template
from ..inference.separate import separate
from ..inference.speak import can_speak_as, speak
from ..inference.stream_speech import stream_speech
from .baselines import (
    CODEC_PROGRAMS,
    SPEAKERS,
    SUPPRESSORS,
    Baseline,
    codec_baseline,
    open_baseline,
    speak_with_program,
    unchanged,
)
from .metrics.metric import RATE, EvalSample
from .results import CEILING, ENHANCED, RECORDING, SEPARATED

TASK_INPUT = {"se": "noisy", "ss": "mixture"}  # task -> kind of what is heard


INPUTS: dict[InputKind, str] = {
    "features": "continuous",
    "codes": "discrete",
}  # what a model hears, as the paper calls it


_TIMED_ITEMS = 30  # whose first sound is waited for


@dataclass(frozen=True)
class System:
    """What makes sounds, one or several (of talkers) from each item.

    Args:
        name: of its row.
        fingerprint: says whether a line of the record is of the same system, as a hash of its weights.
        make: from the number of an item.
    """

    name: str
    fingerprint: str
    make: Callable[[int], list[EvalSample]]


def codec_systems(
    items: Sequence[Utterance], tokenizer: AudioTokenizer, name: str, others: bool = False
) -> list[System]:
    """The recordings themselves (the recogniser's own errors), the same through the codec and through other codecs.

    Of speech in noise the recordings are the clean ones, which everything is compared with, and codecs hear the noise.
    """
    spoken = [item.sources[0] if item.sources else item for item in items]
    heard = lru_cache(maxsize=1)(lambda i: items[i].read(RATE)[0])
    clean = lru_cache(maxsize=1)(lambda i: spoken[i].read(RATE)[0]) if items[0].sources else heard
    noisy = [unchanged("noisy")] if items[0].sources else []
    baselines = [*noisy, codec_baseline(name, tokenizer), *map(open_baseline, CODEC_PROGRAMS if others else ())]
    return [recordings(spoken), *(baseline_system(one, items, heard, clean) for one in baselines)]


def baseline_system(
    baseline: Baseline,
    items: Sequence[Utterance],
    heard: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
) -> System:
    """What a baseline leaves of each item, (T,) at `RATE`, to be compared with the clean one."""

    def make(i: int) -> list[EvalSample]:
        again, facts = baseline.process(heard(i))
        return [EvalSample(again, RATE, items[i].text or "", clean(i), {"similarity": clean(i)}, facts)]

    return System(baseline.name, baseline.fingerprint, make)


def recordings(items: Sequence[Utterance]) -> System:
    """Doing nothing, with how alike the voices of two recordings of one speaker and of two are."""

    def make(i: int) -> list[EvalSample]:
        voices = {kind: other.read(RATE)[0] for kind, other in _others(items, i).items()}
        return [EvalSample(items[i].read(RATE)[0], RATE, items[i].text or "", voices=voices)]

    return System(RECORDING, "", make)


def speech_systems(items: Sequence[Utterance], lm: SpeechLM, seed: int, others: bool = False) -> list[System]:
    """Speech written for the transcripts, beside the recordings and what the codec leaves of them."""
    tokenizer, key = lm.audio_tokenizer, weights_hash(lm.model)
    codec, output_rate = codec_baseline(CEILING, tokenizer), tokenizer.output_sampling_rate

    def ceiling(i: int) -> list[EvalSample]:
        audio = items[i].read(RATE)[0]
        return [EvalSample(codec.process(audio)[0], RATE, items[i].text or "", audio, {"similarity": audio})]

    def spoken(i: int, **voice: Any) -> list[EvalSample]:
        text, seconds = items[i].text or "", len(items[i].read(RATE)[0]) / RATE
        result = speak(text, lm, seed=seed + 1000 * i, **voice)
        facts = {key: result.stats[key] for key in ("real_time_factor", "attempts", "num_spans_at_max")}
        facts |= {
            "unfinished": float(result.stop_reason == "max_length"),
            "duration": result.stats["seconds"] / seconds,
        }
        return [EvalSample(result.audio, result.sampling_rate, text, facts=facts)]

    def as_the_recording(i: int) -> list[EvalSample]:
        other = _others(items, i).get("same", items[i])
        reference, _ = other.read(output_rate)
        (sound,) = spoken(i, reference=reference, reference_text=other.text, sampling_rate=output_rate)
        return [EvalSample(sound.audio, sound.rate, sound.text, voices={"similarity": reference}, facts=sound.facts)]

    def named(i: int) -> list[EvalSample]:
        (sound,) = spoken(i)
        if i < _TIMED_ITEMS:
            began = time.perf_counter()
            next(iter(stream_speech(sound.text, lm, seed=seed + 1000 * i)))
            sound.facts["first_sound_s"] = time.perf_counter() - began
        return [sound]

    def by(name: str) -> Callable[[int], list[EvalSample]]:
        return lambda i: [EvalSample(*speak_with_program(name, items[i].text or ""), items[i].text or "")]

    has_voices, imitates = can_speak_as(lm, by_reference=False), can_speak_as(lm, by_reference=True)
    return [
        recordings(items),
        System(CEILING, codec.fingerprint, ceiling),
        *(System(name, "", by(name)) for name in (SPEAKERS if others else ())),
        *([System(f"spoken, {lm.info.voices[0]}", key, named)] if has_voices else []),
        *([System("spoken in the voice of a recording", key, as_the_recording)] if imitates else []),
    ]


def mixed_systems(
    task: str, mixer: Mixer | Premixed, items: Sequence[Utterance], lm: SpeechLM, others: bool = False
) -> list[System]:
    """What a model makes of noise or of several talkers, between doing nothing and what the codec leaves of the best.

    Every talker counts, in the order of who speaks first: the model has to keep it, nobody sorts its answers.
    """
    codec, heard = codec_baseline(CEILING, lm.audio_tokenizer), TASK_INPUT[task]
    if mixer.input_name != heard:
        raise ValueError(f"{task} needs a recipe of kind {heard}, or such a corpus, found {mixer.input_name}")
    mixed = lru_cache(maxsize=None)(lambda i: mixer.example(items[i], RATE))
    task_template(lm, task)  # refuses a model of another task
    known = {template.name for template in lm.info.templates}
    ways: list[InputKind] = [way for way in INPUTS if {"features": f"{task}-features", "codes": task}[way] in known]

    def system(name: str, key: str, answer: Callable[[AudioExample], Sequence[np.ndarray]], **facts: str) -> System:
        def make(i: int) -> list[EvalSample]:
            targets, texts = _targets(mixed(i)), mixed(i).columns.get("texts") or [items[i].text or ""]
            answers = zip(answer(mixed(i)), texts, targets, strict=True)
            return [
                EvalSample(wave, RATE, text, target, {"similarity": target}, facts) for wave, text, target in answers
            ]

        return System(name, key, make)

    def for_all(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[AudioExample], list[np.ndarray]]:
        return lambda example: [change(_heard(example))] * len(_targets(example))

    def written(way: InputKind) -> System:
        def answer(example: AudioExample) -> Sequence[np.ndarray]:
            talkers, wave = _targets(example), _heard(example)
            options: dict[str, Any] = {"sampling_rate": RATE, "input_kind": way}
            result: Any = enhance(wave, lm, **options) if task == "se" else separate(wave, lm, len(talkers), **options)
            return [resample(one, result.sampling_rate, RATE) for one in np.atleast_2d(result.audio)]

        name = {"se": ENHANCED, "ss": SEPARATED}[task] + (" from codes" if way != ways[0] else "")
        return system(name, weights_hash(lm.model), answer, input=INPUTS[way])

    def suppressed(name: str) -> Callable[[AudioExample], list[np.ndarray]]:
        return for_all(lambda wave: SUPPRESSORS[name](wave, RATE))

    return [
        system(RECORDING, "", _targets),
        system(CEILING, codec.fingerprint, lambda example: [codec.process(target)[0] for target in _targets(example)]),
        system(heard, "", for_all(lambda wave: wave)),
        system(f"{heard} through the codec", codec.fingerprint, for_all(lambda wave: codec.process(wave)[0])),
        *(system(name, "", suppressed(name)) for name in (SUPPRESSORS if others and task == "se" else ())),
        *map(written, ways),
    ]


def _targets(example: AudioExample) -> list[np.ndarray]:
    """Every talker, in the order of first speech."""
    return [example.target, *example.others]


def _heard(example: AudioExample) -> np.ndarray:
    assert example.input_audio is not None  # it was mixed
    return example.input_audio


def _others(items: Sequence[Utterance], i: int) -> dict[str, Utterance]:
    """The next recordings of the same speaker and of another one."""
    after = [*items[i + 1 :], *items[:i]]
    same = next((item for item in after if item.speaker == items[i].speaker), None)
    other = next((item for item in after if item.speaker != items[i].speaker), None)
    return {kind: item for kind, item in (("same", same), ("other", other)) if item is not None}
