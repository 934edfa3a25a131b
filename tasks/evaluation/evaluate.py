"""Codecs and language models on recordings with transcripts, between doing nothing and the best that can be. T samples.

Every task has its row of doing nothing, and one of what the codec leaves of the clean recordings: no model that writes
its tokens does better, but by luck. Nothing is chosen by looking at the answer, except in the row that says so.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ...data.corpus import Utterance, read_corpus
from ...data.example import Example
from ...data.mixing import Mixer, Premixed, read_recipe
from ...data.shards import weights_hash
from ...lm import SpeechLM
from ...tokenizer import AudioTokenizer, resample
from ..inference.enhancement import enhance
from ..inference.inputs import InputKind, open_model, task_template
from ..inference.separation import separate
from ..inference.streaming import stream_speech
from ..inference.tts import can_speak_as, speak
from .baselines import RATE, contender_of, heard_through, open_contender, unchanged
from .classical import CODECS, SPEAKERS, say_classically
from .metrics import Line, Sound, code_figures, load_scorers, word_counter
from .record import read_record
from .results import RECORDING, System, judge, mean, table
from .suppressors import SUPPRESSORS

CEILING = "recording through the codec"
ENHANCED, SEPARATED = "enhanced", "separated"
HEARD = {"se": "noisy", "ss": "mixture"}  # task -> kind of what is heard
INPUTS: dict[InputKind, str] = {
    "features": "continuous",
    "codes": "discrete",
}  # the paper's name for each kind of model input
TASKS = ("codec", "tts", "se", "ss")
_TIMED_ITEMS = 30  # whose first sound is waited for


def evaluate_task(
    task: str,
    data: Path,
    model: str,
    limit: int,
    scorers: str,
    seed: int,
    mix: Path | None = None,
    noise: Path | None = None,
    whisper: str | None = None,
    language: str = "en",
    others: bool = False,
    record: Path | None = None,
    progress: bool = False,
    layout: str | None = None,
    utmos: str | None = None,
) -> str:
    """-> a heading and a Markdown table; see `focallm evaluate --help` for the arguments.

    Raises:
        ValueError: unknown task or scorers, recordings without transcripts, or a recipe that is missing or of no use.
        ImportError: a scorer or something to compare with is not installed.
    """
    if task not in TASKS:
        raise ValueError(f"codec, tts, se and ss can be evaluated, found {task!r}")
    metrics = load_scorers(scorers, whisper, language, utmos)
    items = read_with_texts(data, layout)
    rewrites, sources = task in ("se", "ss"), len(items[0].sources)
    if rewrites != (mix is not None or sources > (task == "codec")):
        raise ValueError(
            "se and ss, and only they, need --mix: how the recordings that the model hears are made; or a corpus that "
            "has them, such as voicebank (a codec may hear that, too) and libri2mix with --layout"
        )
    mixer: Mixer | Premixed | None = None
    if mix is not None:
        mixer = Mixer(read_recipe(mix), items, read_corpus(noise) if noise else ())
    elif rewrites:
        mixer = Premixed(items)
    items = choose(items if mixer is None else mixer.rows, limit, seed)
    if mixer is not None:
        systems = mixed_systems(task, mixer, items, open_model(model, task), others)
    elif task == "codec":
        systems = codec_systems(items, AudioTokenizer.from_pretrained(model), model, others)
    else:
        systems = speech_systems(items, open_model(model, task), seed, others)
    lines = judge(systems, [item.id for item in items], metrics, seed, record, progress)
    heading = f"{task} {model} on {data.name}, scorers: {scorers}"
    return f"{heading}\n\n{table_of_lines(lines, seed)}"


def table_of_lines(lines: dict[str, list[Line]], seed: int) -> str:
    """The table of what was measured, with an oracle's row for each separation, and remarks."""
    separated = {name: own for name, own in lines.items() if name.startswith(SEPARATED) and "heard" in own[0]}
    best = {f"{name}, in the order that fits the texts best": in_best_order(own) for name, own in separated.items()}
    return "\n".join([table({**lines, **best}, seed), *remarks(lines)])


def read_with_texts(data: Path, layout: str | None = None) -> list[Utterance]:
    """The utterances of a corpus that have a transcript, of every talker.

    Raises:
        ValueError: none has.
    """
    corpus = read_corpus(data, layout=layout)
    items = [item for item in corpus if all(one.text for one in item.sources or (item,))]
    if not items:
        raise ValueError(f"{data} has no transcripts: evaluation needs a text for each recording")
    return items


def choose(items: list[Utterance], limit: int, seed: int) -> list[Utterance]:
    """At most `limit` of them, chosen by the seed; all for 0."""
    if not 0 < limit < len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), limit, replace=False))]


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
    contenders = [*noisy, contender_of(name, tokenizer), *map(open_contender, CODECS if others else ())]
    return [recordings(spoken), *(heard_through(one, items, heard, clean) for one in contenders)]


def recordings(items: Sequence[Utterance]) -> System:
    """Doing nothing, with how alike the voices of two recordings of one speaker and of two are."""

    def make(i: int) -> list[Sound]:
        voices = {kind: other.read(RATE)[0] for kind, other in _others(items, i).items()}
        return [Sound(items[i].read(RATE)[0], RATE, items[i].text or "", voices=voices)]

    return System(RECORDING, "", make)


def speech_systems(items: Sequence[Utterance], lm: SpeechLM, seed: int, others: bool = False) -> list[System]:
    """Speech written for the transcripts, beside the recordings and what the codec leaves of them."""
    tokenizer, key = lm.audio_tokenizer, weights_hash(lm.model)
    codec, output_rate = contender_of(CEILING, tokenizer), tokenizer.output_sampling_rate

    def ceiling(i: int) -> list[Sound]:
        audio = items[i].read(RATE)[0]
        return [Sound(codec.through(audio)[0], RATE, items[i].text or "", audio, {"similarity": audio})]

    def spoken(i: int, **voice: Any) -> list[Sound]:
        text, seconds = items[i].text or "", len(items[i].read(RATE)[0]) / RATE
        result = speak(text, lm, seed=seed + 1000 * i, **voice)
        facts = {key: result.stats[key] for key in ("real_time_factor", "attempts")}
        facts |= {"unfinished": float(result.stop_reason != "end"), "duration": result.stats["seconds"] / seconds}
        return [Sound(result.audio, result.sampling_rate, text, facts=facts)]

    def as_the_recording(i: int) -> list[Sound]:
        other = _others(items, i).get("same", items[i])
        reference, _ = other.read(output_rate)
        (sound,) = spoken(i, reference=reference, reference_text=other.text, sampling_rate=output_rate)
        return [Sound(sound.audio, sound.rate, sound.text, voices={"similarity": reference}, facts=sound.facts)]

    def named(i: int) -> list[Sound]:
        (sound,) = spoken(i)
        if i < _TIMED_ITEMS:
            began = time.perf_counter()
            next(iter(stream_speech(sound.text, lm, seed=seed + 1000 * i)))
            sound.facts["first_sound_s"] = time.perf_counter() - began
        return [sound]

    def by(name: str) -> Callable[[int], list[Sound]]:
        return lambda i: [Sound(*say_classically(name, items[i].text or ""), items[i].text or "")]

    has_voices, imitates = can_speak_as(lm, by_reference=False), can_speak_as(lm, by_reference=True)
    return [
        recordings(items),
        System(CEILING, codec.key, ceiling),
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
    codec, heard = contender_of(CEILING, lm.audio_tokenizer), HEARD[task]
    if mixer.heard != heard:
        raise ValueError(f"{task} needs a recipe of kind {heard}, or such a corpus, found {mixer.heard}")
    mixed = lru_cache(maxsize=None)(lambda i: mixer.example(items[i], RATE))
    task_template(lm, task)  # refuses a model of another task
    known = {template.name for template in lm.info.templates}
    ways: list[InputKind] = [way for way in INPUTS if {"features": f"{task}-features", "codes": task}[way] in known]

    def system(name: str, key: str, answer: Callable[[Example], Sequence[np.ndarray]], **facts: str) -> System:
        def make(i: int) -> list[Sound]:
            targets, texts = _targets(mixed(i)), mixed(i).facts.get("texts") or [items[i].text or ""]
            answers = zip(answer(mixed(i)), texts, targets, strict=True)
            return [Sound(wave, RATE, text, target, {"similarity": target}, facts) for wave, text, target in answers]

        return System(name, key, make)

    def for_all(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Example], list[np.ndarray]]:
        return lambda example: [change(_heard(example))] * len(_targets(example))

    def written(way: InputKind) -> System:
        def answer(example: Example) -> Sequence[np.ndarray]:
            talkers, wave = _targets(example), _heard(example)
            options: dict[str, Any] = {"sampling_rate": RATE, "input_kind": way}
            result: Any = enhance(wave, lm, **options) if task == "se" else separate(wave, lm, len(talkers), **options)
            return [resample(one, result.sampling_rate, RATE) for one in np.atleast_2d(result.audio)]

        name = {"se": ENHANCED, "ss": SEPARATED}[task] + (" from codes" if way != ways[0] else "")
        return system(name, weights_hash(lm.model), answer, input=INPUTS[way])

    def suppressed(name: str) -> Callable[[Example], list[np.ndarray]]:
        return for_all(lambda wave: SUPPRESSORS[name](wave, RATE))

    return [
        system(RECORDING, "", _targets),
        system(CEILING, codec.key, lambda example: [codec.through(target)[0] for target in _targets(example)]),
        system(heard, "", for_all(lambda wave: wave)),
        system(f"{heard} through the codec", codec.key, for_all(lambda wave: codec.through(wave)[0])),
        *(system(name, "", suppressed(name)) for name in (SUPPRESSORS if others and task == "se" else ())),
        *map(written, ways),
    ]


def _targets(example: Example) -> list[np.ndarray]:
    """Every talker, in the order of first speech."""
    return [example.target, *example.others]


def _heard(example: Example) -> np.ndarray:
    assert example.heard is not None  # it was mixed
    return example.heard


def in_best_order(lines: Sequence[Line]) -> list[Line]:
    """The same answers, those of each mixture in the order whose words are right most often: an oracle, as the field
    reports it (permutation-invariant)."""
    count, best = word_counter(), list[Line]()
    for name in dict.fromkeys(line["id"] for line in lines):
        own = [line for line in lines if line["id"] == name]
        texts = [line["text"] for line in own]
        orders = [
            [(line, *count(text, line["heard"])) for text, line in zip(texts, p, strict=True)]
            for p in permutations(own)
        ]
        chosen = min(orders, key=lambda order: sum(wrong for _, wrong, _ in order))
        best += [
            {"id": name, "seconds": line["seconds"], "errors": wrong, "words": words} for line, wrong, words in chosen
        ]
    return best


def remarks(lines: dict[str, list[Line]]) -> list[str]:
    """What stands below a table: how alike voices are by themselves, and how codes are used."""
    said = []
    same, other = (mean(lines.get(RECORDING, []), key, 3) for key in ("same", "other"))
    if same or other:
        said.append(
            f"Voice similarity of two recordings of one speaker: {same or 'none'}; of two speakers: {other or 'none'}."
        )
    for name, own in lines.items():
        if "codes" in own[0]:
            said.append(_use(name, own))
    return ["", *said] if said else []


def _use(name: str, lines: Sequence[Line]) -> str:
    use = code_figures(lines)
    return (
        f"Codes of {name}: {use['codes_used']} of {use['codes']} ({100 * use['code_usage']:.1f} %) in {use['tokens']} "
        f"tokens, {100 * use['code_share']:.1f} % of those that even use would show; entropy {use['entropy_bits']:.2f} "
        f"bits, normalised by the codes in use {use['normalised_entropy']:.3f}."
    )


def table_of_record(record: Path, weights: Sequence[nn.Module], seed: int) -> str:
    """The table of what a record holds of a model, of those that it uses, and of systems without any.

    Of systems heard on all of it: the recordings and what the codec leaves of them first, what the model makes last.

    Args:
        record: as `focallm evaluate --record` wrote it.
        weights: the model, then those that it uses.
        seed: of the intervals.

    Raises:
        ValueError: the record holds nothing of the model.
    """
    keys, known = [*map(weights_hash, weights)], read_record(record)
    if keys and keys[0] not in {key for *_, key in known}:
        raise ValueError(
            f"{record} holds {len(known)} measured sounds and none of these weights: it is of other ones, or not what "
            f"--record wrote. Measure them: focallm evaluate ... --record {record}"
        )
    lines: dict[str, list[Line]] = {}
    for (_, name, key), found in known.items():
        if key in ("", *keys):
            lines.setdefault(name, []).extend(found)
    whole = max(map(len, lines.values()))
    order = sorted((name for name, own in lines.items() if len(own) == whole), key=_place)
    return table_of_lines({name: lines[name] for name in order}, seed)


def _place(name: str) -> int:
    first, last = (RECORDING, CEILING), ("spoken", ENHANCED, SEPARATED)
    return first.index(name) - 2 if name in first else int(name.startswith(last))


def _others(items: Sequence[Utterance], i: int) -> dict[str, Utterance]:
    """The next recordings of the same speaker and of another one."""
    after = [*items[i + 1 :], *items[:i]]
    same = next((item for item in after if item.speaker == items[i].speaker), None)
    other = next((item for item in after if item.speaker != items[i].speaker), None)
    return {kind: item for kind, item in (("same", same), ("other", other)) if item is not None}
