"""Systems to evaluate: recordings, the codec ceiling, baselines and models. T samples.

Every list of systems holds the recordings themselves, what the codec makes of them (the ceiling of a model that writes
its tokens), and, for noisy or mixed input, that input unchanged (doing nothing).
"""

import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ...data.mixing.mixer import Mixer, Premixed
from ...data.token_store import weights_hash
from ...data.utterance import AudioExample, Utterance
from ...lm.model import SpeechLM
from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.waveform import resample
from ..inference.enhance import enhance
from ..inference.inputs import InputKind, task_template
from ..inference.separate import separate
from ..inference.speak import can_speak_as, speak, stream_speech
from .baselines import (
    CODEC_PROGRAMS,
    SPEECH_PROGRAMS,
    SUPPRESSORS,
    baseline_system,
    codec_baseline,
    open_baseline,
    speak_with_program,
    unchanged,
)
from .metrics.metric import RATE, EvalSample
from .results import CEILING, ENHANCED, RECORDING, SEPARATED, SPOKEN
from .runner import System

TASK_INPUT = {"se": "noisy", "ss": "mixture"}  # task -> kind of its input
# The paper's name for each kind of model input.
INPUTS: dict[InputKind, str] = {"features": "continuous", "codes": "discrete"}
_NUM_STREAMED_ITEMS = 30  # first items, whose time to first audio is measured
_SEED_STEP = 1000  # between the seeds of two items

# Turns an example into one output (T,) at `RATE` for each speaker, in the order in which they start to speak.
Restore = Callable[[AudioExample], Sequence[np.ndarray]]


def codec_systems(
    items: Sequence[Utterance], tokenizer: AudioTokenizer, name: str, baselines: bool = False
) -> list[System]:
    """Make the systems of a codec: the recordings, the same through the codec, and through other codecs.

    If the corpus holds noisy speech with its clean sources, the codecs get the noisy speech and everything is compared
    with the clean speech.

    Args:
        items: What to evaluate.
        tokenizer: The codec.
        name: Name of its row.
        baselines: Add Codec2 and Opus.
    """
    is_noisy = bool(items[0].sources)
    clean_items = [item.sources[0] for item in items] if is_noisy else items
    codec_input = _reader(items)
    clean = _reader(clean_items) if is_noisy else codec_input

    rows = [unchanged("noisy")] if is_noisy else []
    rows.append(codec_baseline(name, tokenizer))
    if baselines:
        rows += map(open_baseline, CODEC_PROGRAMS)
    systems = [recordings(clean_items)]
    for row in rows:
        systems.append(baseline_system(row, items, codec_input, clean))
    return systems


def recordings(items: Sequence[Utterance]) -> System:
    """Make the system of the recordings themselves.

    Its word errors are those of the ASR model. Its similarities "same" and "other" compare each recording with the next
    one of the same speaker and of another speaker.
    """

    def make(i: int) -> list[EvalSample]:
        voices = {}
        for score, same_speaker in (("same", True), ("other", False)):
            other = _next_item(items, i, same_speaker)
            if other is not None:
                voices[score] = other.read(RATE)[0]
        audio, _ = items[i].read(RATE)
        return [EvalSample(audio, RATE, items[i].text or "", voices=voices)]

    return System(RECORDING, "", make)


def speech_systems(items: Sequence[Utterance], lm: SpeechLM, seed: int, baselines: bool = False) -> list[System]:
    """Make the systems of text-to-speech: recordings, codec ceiling, synthesizers, and the model in every voice it has.

    Args:
        items: Utterances whose transcripts are spoken.
        lm: The model.
        seed: Seed of the sampling; each item gets its own seed.
        baselines: Add flite and espeak-ng.
    """
    codec = codec_baseline(CEILING, lm.audio_tokenizer)

    def ceiling(i: int) -> list[EvalSample]:
        audio, _ = items[i].read(RATE)
        decoded, _ = codec.process(audio)
        return [EvalSample(decoded, RATE, items[i].text or "", audio, {"similarity": audio})]

    systems = [recordings(items), System(CEILING, codec.fingerprint, ceiling)]
    if baselines:
        for program in SPEECH_PROGRAMS:
            systems.append(_program_speech(program, items))
    if can_speak_as(lm, by_reference=False):
        systems.append(_named_voice(items, lm, seed))
    if can_speak_as(lm, by_reference=True):
        systems.append(_reference_voice(items, lm, seed))
    return systems


def _program_speech(program: str, items: Sequence[Utterance]) -> System:
    """Make the system of a speech synthesis program."""

    def make(i: int) -> list[EvalSample]:
        text = items[i].text or ""
        audio, rate = speak_with_program(program, text)
        return [EvalSample(audio, rate, text)]

    return System(program, "", make)


def _named_voice(items: Sequence[Utterance], lm: SpeechLM, seed: int) -> System:
    """Make the system of a model in its default voice."""

    def make(i: int) -> list[EvalSample]:
        sample = _speak(items[i], lm, seed + _SEED_STEP * i)
        if i < _NUM_STREAMED_ITEMS:
            start_time = time.perf_counter()
            next(iter(stream_speech(sample.text, lm, seed=seed + _SEED_STEP * i)))
            sample.facts["time_to_first_audio_s"] = time.perf_counter() - start_time
        return [sample]

    return System(f"{SPOKEN}, {lm.info.voices[0]}", weights_hash(lm.model), make)


def _reference_voice(items: Sequence[Utterance], lm: SpeechLM, seed: int) -> System:
    """Make the system of a model that imitates the voice of each item."""

    def make(i: int) -> list[EvalSample]:
        # Another recording of the same speaker, so that the model cannot copy the item itself.
        reference_item = _next_item(items, i, same_speaker=True) or items[i]
        rate = lm.audio_tokenizer.output_sampling_rate
        reference, _ = reference_item.read(rate)
        voice = {"reference": reference, "reference_text": reference_item.text, "sampling_rate": rate}
        sample = _speak(items[i], lm, seed + _SEED_STEP * i, **voice)
        return [EvalSample(sample.audio, rate, sample.text, voices={"similarity": reference}, facts=sample.facts)]

    return System(f"{SPOKEN} in the voice of a recording", weights_hash(lm.model), make)


def _speak(item: Utterance, lm: SpeechLM, seed: int, **voice: Any) -> EvalSample:
    """Speak the transcript of an item, and note how the generation went."""
    text = item.text or ""
    recording, _ = item.read(RATE)
    result = speak(text, lm, seed=seed, **voice)
    facts = {
        "real_time_factor": result.stats["real_time_factor"],
        "attempts": result.stats["attempts"],
        "stopped_at_max": float(result.stop_reason == "max_length"),
        "num_spans_at_max": result.stats["num_spans_at_max"],
        "duration": result.stats["seconds"] / (len(recording) / RATE),
    }
    return EvalSample(result.audio, result.sampling_rate, text, facts=facts)


def mixed_systems(
    task: str,
    mixer: Mixer | Premixed,
    items: Sequence[Utterance],
    model: SpeechLM | AudioTokenizer,
    baselines: bool = False,
) -> list[System]:
    """Make the systems of enhancement or separation, from the unchanged input to the codec ceiling.

    All speakers count, in the order in which they start to speak. The model has to keep that order; its outputs are not
    sorted by looking at the targets.

    Args:
        task: "se" or "ss".
        mixer: Makes or reads the input.
        items: Rows of the mixer to evaluate.
        model: The language model, or for "se" also the tokenizer of a codec with a denoising encoder.
        baselines: Add noise suppressors, for "se".

    Raises:
        ValueError: The mixer makes another kind of input, or the model was trained for other tasks.
    """
    input_name = TASK_INPUT[task]
    if mixer.input_name != input_name:
        raise ValueError(
            f"`evaluate {task}` needs {input_name} input, but the mix file or the corpus provides {mixer.input_name} "
            f"input. Pass a mix file of kind {input_name}, or evaluate the task that fits"
        )
    if isinstance(model, SpeechLM):
        task_template(model, task)  # raises an error if the model was trained for other tasks
        codec = codec_baseline(CEILING, model.audio_tokenizer)
    else:
        codec = codec_baseline(CEILING, model)

    # Mixing is slower than reading, and every system needs every example.
    @cache
    def example(i: int) -> AudioExample:
        return mixer.example(items[i], RATE)

    def system(name: str, fingerprint: str, restore: Restore, **facts: str) -> System:
        def make(i: int) -> list[EvalSample]:
            targets = _targets(example(i))
            texts = example(i).columns.get("texts") or [items[i].text or ""]
            samples = []
            for output, text, target in zip(restore(example(i)), texts, targets, strict=True):
                samples.append(EvalSample(output, RATE, text, target, {"similarity": target}, facts))
            return samples

        return System(name, fingerprint, make)

    def codec_output(wave: np.ndarray) -> np.ndarray:
        return codec.process(wave)[0]

    systems = [
        system(RECORDING, "", _targets),
        system(CEILING, codec.fingerprint, lambda example: [codec_output(target) for target in _targets(example)]),
        system(input_name, "", _process_input(lambda wave: wave)),
        system(f"{input_name} through the codec", codec.fingerprint, _process_input(codec_output)),
    ]
    if baselines and task == "se":
        for name, suppress in SUPPRESSORS.items():
            systems.append(system(name, "", _process_input(_at_rate(suppress))))

    if not isinstance(model, SpeechLM):
        restore = _restore_with_model(model, task)
        return [*systems, system(ENHANCED, weights_hash(model.codec.pretrained_model), restore)]
    template_names = [template.name for template in model.info.templates]
    input_kinds: list[InputKind] = []
    if f"{task}-features" in template_names:
        input_kinds.append("features")
    if task in template_names:
        input_kinds.append("codes")
    for kind in input_kinds:
        name = ENHANCED if task == "se" else SEPARATED
        # A model with both kinds of input has two rows; the first has the plain name.
        if kind != input_kinds[0]:
            name += " from codes"
        restore = _restore_with_model(model, task, kind)
        systems.append(system(name, weights_hash(model.model), restore, input=INPUTS[kind]))
    return systems


def _restore_with_model(model: SpeechLM | AudioTokenizer, task: str, input_kind: InputKind | None = None) -> Restore:
    """Enhance or separate the input with a model."""

    def restore(example: AudioExample) -> list[np.ndarray]:
        wave = _input_audio(example)
        options: dict[str, Any] = {"sampling_rate": RATE, "input_kind": input_kind}
        if task == "se":
            result: Any = enhance(wave, model, **options)
        else:
            result = separate(wave, model, len(_targets(example)), **options)
        return [resample(output, result.sampling_rate, RATE) for output in np.atleast_2d(result.audio)]

    return restore


def _process_input(process: Callable[[np.ndarray], np.ndarray]) -> Restore:
    """Process the input (T,), and take the result as the output for every speaker."""

    def restore(example: AudioExample) -> list[np.ndarray]:
        return [process(_input_audio(example))] * len(_targets(example))

    return restore


def _at_rate(suppress: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Bind a noise suppressor to `RATE`."""
    return lambda wave: suppress(wave, RATE)


def _targets(example: AudioExample) -> list[np.ndarray]:
    """Return the clean speech of all speakers, in the order in which they start to speak."""
    return [example.target, *example.others]


def _input_audio(example: AudioExample) -> np.ndarray:
    assert example.input_audio is not None  # the example was mixed
    return example.input_audio


def _reader(items: Sequence[Utterance]) -> Callable[[int], np.ndarray]:
    """Return a function that reads an item at `RATE` and keeps the last one."""

    @lru_cache(maxsize=1)
    def read(i: int) -> np.ndarray:
        audio, _ = items[i].read(RATE)
        return audio

    return read


def _next_item(items: Sequence[Utterance], i: int, same_speaker: bool) -> Utterance | None:
    """Return the next item of the same speaker, or of another one, starting over at the end of the list."""
    for item in [*items[i + 1 :], *items[:i]]:
        if (item.speaker == items[i].speaker) == same_speaker:
            return item
    return None
