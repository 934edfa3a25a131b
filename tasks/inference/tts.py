"""Speech from text, in a voice the model knows or in that of a recording."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from ...data.phonemes import cut
from ...lm import Generation, Sampling, SpeechLM
from ...lm.answering import usual_sampling
from ...lm.generation import StopReason
from ...lm.templates import Prompt, Template
from ..training.sources import CONVERSION_REFERENCE_S
from .inputs import encode_ids, load_waves, open_model
from .result import SpeechResult, measure

logger = logging.getLogger(__name__)

PIECE = 120  # units that are said at once, about ten seconds: models learn from short recordings
RETRIES = 2  # further attempts, each with another seed, when a reading has no end
# Templates by whether the voice is that of a recording, first those in which text and speech are on one clock.
_NAMES = {False: ("tts-aligned", "tts"), True: ("zero-shot-aligned", "zero-shot")}
_FAR = 1 << 20  # between the seeds of attempts, so that neighbouring seeds have none in common


@overload
def speak(text: str, *args: Any, **kwargs: Any) -> SpeechResult: ...
@overload
def speak(text: list[str], *args: Any, **kwargs: Any) -> list[SpeechResult]: ...
def speak(
    text: str | list[str],
    model: str | Path | SpeechLM = "mini",
    voice: str | None = None,
    reference: Any = None,
    reference_text: str | None = None,
    sampling_rate: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult | list[SpeechResult]:
    """Read a text aloud, or several at once.

    Args:
        text: what to say, or a list of texts; each of any length for a model of aligned speech ("tts-aligned"), which
            says it in pieces, and as long as the model's positions allow for others.
        model: `"mini"`, a folder that `focallm train tts` made, or a loaded `SpeechLM` (load once, speak often).
        voice: one of the voices the model was trained on; the most frequent of them by default.
        reference: a recording (as in `enhance`) of the voice to speak in; for models trained for "zero-shot".
        reference_text: what is said in it; a model of aligned speech ("zero-shot-aligned") has no use for it.
        sampling_rate: of a reference that is an array, in Hz.
        sampling: how tokens are drawn; as suits the model by default.
        seed: the same seed gives the same speech; where nothing is drawn, as with "mini" by default, any seed does.

    Returns:
        The audio (T,) with its rate; `stop_reason` is "end", or "length" if every attempt ran into the longest duration
        that the text can take (then the attempt that repeats itself least); `stats` counts tokens, seconds, attempts.

    Raises:
        ValueError: an empty text, an unknown voice, a reference without its text, or a model of another task.
    """
    lm, texts = open_model(model), [text] if isinstance(text, str) else text
    if not texts:
        raise ValueError("speak needs at least one text, found none")
    began, tokenizer = time.perf_counter(), lm.audio_tokenizer
    given = voice_fields(lm, voice, reference, reference_text, sampling_rate)
    prompts = [speech_prompts(lm, one, given) for one in texts]
    sampling = sampling or usual_speech(lm, by_reference=reference is not None)
    readings = iter(_read(lm, [prompt for own in prompts for prompt in own], sampling, seed))
    pieces = [[next(readings) for _ in own] for own in prompts]  # of each text
    chosen = [[max(attempts, key=_goodness) for attempts in own] for own in pieces]
    codes = [torch.cat([generation.codes for generation in own]) for own in chosen]
    rate, audios = tokenizer.output_sampling_rate, tokenizer.batch_decode(codes)
    stats = measure(began, list(map(len, codes)), [len(wave) / rate for wave in audios])
    results = []
    for own, generations, wave, figures in zip(pieces, chosen, audios, stats, strict=True):
        figures |= {"attempts": max(map(len, own)), "voice": given.get("speaker", "of the reference")}
        results.append(SpeechResult(wave, rate, stop_reason(generations), figures))
    return results[0] if isinstance(text, str) else results


def stop_reason(pieces: Sequence[Generation]) -> StopReason:
    """Of a reading in pieces: "length" if one of them has no end."""
    return "length" if any(piece.stop_reason == "length" for piece in pieces) else "end"


def _goodness(generation: Generation) -> tuple[bool, int]:
    """Of several attempts, one that ended; or else the one that repeats itself least."""
    return generation.stop_reason != "length", len(generation.codes.unique())


def voice_fields(
    lm: SpeechLM, voice: str | None, reference: Any, reference_text: str | None, sampling_rate: int | None
) -> dict[str, Any]:
    """The fields of the templates "tts" or "zero-shot" that say whose voice it is; errors as in `speak`."""
    template = _template(lm, reference is not None)
    if lm.info.length_window is None or not (lm.info.voices or reference is not None):
        raise ValueError("this model has not been trained to speak (it knows no voice or no pace): focallm train tts")
    if reference is None:
        if voice is not None and voice not in lm.info.voices:
            raise ValueError(f"no voice is called {voice!r}: this model knows {', '.join(lm.info.voices) or 'none'}")
        return {"speaker": voice or lm.info.voices[0]}
    if voice is not None:
        raise ValueError("a reference excludes a named voice: give one of them")
    told = any(segment.field == "reference_text" for segment in template.segments)
    if told and not (reference_text or "").strip():
        raise ValueError("with this model a reference needs reference_text, what is said in it")
    ids = encode_ids(lm.audio_tokenizer, load_waves(reference, sampling_rate, lm.audio_tokenizer))
    if len(ids) != 1:
        raise ValueError(f"speak takes one reference, found {len(ids)}: call it once for each voice")
    if told:
        return {"reference_text": reference_text, "reference_codes": ids[0]}
    most = round(CONVERSION_REFERENCE_S * lm.audio_tokenizer.tokens_per_second)
    return {"reference_codes": ids[0][:most]}


def speech_prompts(lm: SpeechLM, text: str, voice: dict[str, Any]) -> list[Prompt]:
    """What to say, in whose voice, and how long that may last; in pieces, one after the other, where the text is long
    and the model speaks unit by unit."""
    if not text.strip():
        raise ValueError("the text is empty: give at least one word")
    template = _template(lm, "speaker" not in voice)
    if template.target.kind == "aligned":
        pieces = cut(lm.units(text), PIECE)
        return [template.prompt(lm.vocabulary, lm.unit_window(), units=piece, **voice) for piece in pieces]
    _check_spelling(lm, text)
    window = lm.info.length_window
    assert window is not None  # voice_fields has seen it
    length = window.tokens(len(text), lm.audio_tokenizer.tokens_per_second)
    return [template.prompt(lm.vocabulary, length, text=text, **voice)]


def can_speak_as(lm: SpeechLM, by_reference: bool) -> bool:
    """Whether a model speaks in the voice of a recording, or in voices of its own."""
    names = {template.name for template in lm.info.templates}
    return bool(names & set(_NAMES[by_reference])) and (by_reference or bool(lm.info.voices))


def usual_speech(lm: SpeechLM, by_reference: bool) -> Sampling:
    """How tokens are drawn where nobody says otherwise."""
    return usual_sampling(lm, _template(lm, by_reference))


def _template(lm: SpeechLM, by_reference: bool) -> Template:
    """The way in which a model speaks, on one clock with the text where it can."""
    return lm.info.template(*_NAMES[by_reference])


def _check_spelling(lm: SpeechLM, text: str) -> None:
    """Say which characters the vocabulary cannot spell; with nothing left to say, stop."""
    unknown = lm.vocabulary.unknown_characters(text)
    if not unknown:
        return
    if not any(character.isalnum() and character not in unknown for character in text):
        raise ValueError(f"the model's vocabulary spells nothing of {text!r}: write it out in letters that it knows")
    logger.warning("the model cannot spell %s and leaves it out: write it out in letters", " ".join(unknown))


def _read(lm: SpeechLM, prompts: list[Prompt], sampling: Sampling | None, seed: int) -> list[list[Generation]]:
    """All attempts at each prompt: until one ends, or no retry is left"""
    attempts: list[list[Generation]] = [[] for _ in prompts]
    greedy = sampling is not None and sampling.temperature == 0  # a further attempt would be the same
    for attempt in range(1 if greedy else 1 + RETRIES):
        endless = [i for i, own in enumerate(attempts) if all(g.stop_reason == "length" for g in own)]
        if endless:
            seeds = [seed + attempt * _FAR] * len(endless)
            again = lm.generate([prompts[i] for i in endless], sampling=sampling, seed=seeds)
            for i, generation in zip(endless, again, strict=True):
                attempts[i].append(generation)
    return attempts
