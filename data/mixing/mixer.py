"""Audio examples: clean speech as the target, and a noisy, overlapping or pitch-shifted version of it as the input.

`Mixer` makes them from clean speech; `Premixed` reads them from a corpus that was published with noisy recordings and
their sources. All signals of an example have T samples.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizer.noise import (
    active_level_db,
    amplify,
    babble_noise,
    colored_noise,
    cut_noise,
    level_db,
    modulated_noise,
    onset_s,
)
from ...tokenizer.waveform import Waveform
from ..utterance import AudioExample, Utterance
from . import audio_effects as effects
from .mix_config import MixConfig, Range
from .split import Part, speaker_key, split_corpus

_NUM_BABBLE_VOICES = (4, 8)  # lowest and highest
# Noise recordings last minutes and are used again and again, so the last ones stay in memory.
_NOISE_CACHE_SIZE = 24

MixDetails = dict[str, Any]  # what was drawn for an example


class Mixer:
    """Makes noisy, overlapping or pitch-shifted speech of a corpus. `tokenize_corpus` takes it in place of the corpus.

    Mixing is deterministic: an example depends only on the config, the corpora and the id of its row. The utterances
    that are held out from training are chosen before anything is mixed, and are mixed only with each other.

    Args:
        config: how to mix.
        corpus: clean speech, from `read_corpus`. The other speakers of mixtures and babble come from it, too.
        noise: recordings without speech, from `read_corpus`, if the config uses recorded noise.

    Raises:
        ImportError: The config uses rooms and the extra that simulates them is not installed.
        ValueError: The config uses recorded noise and there is none, or the other way round; there are too few
            speakers; or the speech was mixed before.
    """

    def __init__(self, config: MixConfig, corpus: Sequence[Utterance], noise: Sequence[Utterance] = ()) -> None:
        self.config = config
        self.corpus = list(corpus)
        self.noise = list(noise)
        self.rows = []
        for utterance in corpus:
            for copy in range(config.copies):
                self.rows.append(dataclasses.replace(utterance, id=f"{utterance.id}-{copy}"))
        self._check_noise()
        self._check_speakers()
        if config.room_probability:
            effects.check_room_simulator()
        self._training_part, self._held_out_part = split_corpus(config, self.corpus, self.noise)
        self._held_out_ids = {utterance.id for utterance in self._held_out_part.corpus}
        # A cache per mixer, because a decorated method would keep the mixer itself in memory.
        self._read_noise = lru_cache(_NOISE_CACHE_SIZE)(lambda index, rate: _read_audible(self.noise[index], rate))

    @property
    def input_name(self) -> str:
        """What the model's input is called: "noisy", "mixture" or "source". Its columns start with this word."""
        return self.config.input_name

    @property
    def max_signals(self) -> int:
        """Highest number of signals in an example: the input and one for each speaker."""
        return 1 + self.config.max_speakers

    def describe(self) -> dict[str, Any]:
        """Return the section `mix` of a manifest. Equal sections and equal corpora give equal examples."""
        section = json.loads(json.dumps(dataclasses.asdict(self.config)))  # tuples become lists, as in the file
        section["noise_sha256"] = None
        if self.noise:
            recordings = [(recording.id, recording.seconds) for recording in self.noise]
            section["noise_sha256"] = hashlib.sha256(json.dumps(recordings).encode()).hexdigest()
        return section

    def example(self, row: Utterance, sampling_rate: int) -> AudioExample:
        """Make the example of one of `rows`.

        Args:
            row: one of `rows`.
            sampling_rate: rate of the signals in Hz.

        Raises:
            OSError, ValueError: The utterance, or a recording drawn for it, cannot be read or is silent.
        """
        digest = hashlib.sha256(f"{self.config.seed}:{row.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        utterance = dataclasses.replace(row, id=row.id.rpartition("-")[0])
        if self.config.kind == "noisy":
            example, details = self._make_noisy(utterance, sampling_rate, rng)
        elif self.config.kind == "mixture":
            example, details = self._make_mixture(utterance, sampling_rate, rng)
        else:
            example, details = self._make_pitch_shifted(utterance, sampling_rate, rng)

        # All signals get the same gain, so that the SNR and the level differences stay as drawn.
        gain_db = self._draw_gain_db(example, sampling_rate, rng)
        target, input_audio, *others = [amplify(signal, gain_db) for signal in example.signals]
        mix = json.dumps(_round_floats({**details, "gain_db": gain_db}))
        is_held_out = utterance.id in self._held_out_ids
        return AudioExample(
            utterance=dataclasses.replace(example.utterance, id=row.id),
            target=target,
            input_audio=input_audio,
            others=tuple(others),
            columns={"utterance": utterance.id, **example.columns, "mix": mix, "held_out": is_held_out},
        )

    def _make_noisy(self, utterance: Utterance, rate: int, rng: np.random.Generator) -> tuple[AudioExample, MixDetails]:
        details: MixDetails = {}
        target = _read_audible(utterance, rate)
        speech = target
        if rng.random() < self.config.room_probability:
            details["rt60_s"] = _draw_uniform(self.config.rt60_s, rng)
            speech, details["distance_m"] = effects.reverberate(target, rate, details["rt60_s"], rng)
        input_audio = self._add_noise(speech, [utterance], rate, rng, details)
        return AudioExample(utterance, target, input_audio), details

    def _make_mixture(
        self, utterance: Utterance, rate: int, rng: np.random.Generator
    ) -> tuple[AudioExample, MixDetails]:
        utterances = self._draw_utterances(utterance, rng)
        waves: list[Waveform] = []
        gains_db: list[float] = []
        starts: list[int] = []
        length = 0
        for source in utterances:
            wave = _read_audible(source, rate)
            # The first source is the utterance itself, which stays at its level and starts at 0.
            gain_db = 0.0
            start = 0
            if waves:
                difference_db = _draw_uniform(self.config.level_difference_db, rng)
                gain_db = active_level_db(waves[0], rate) + difference_db - active_level_db(wave, rate)
                start = round(_draw_uniform(self.config.offset_s, rng) * rate)
            waves.append(wave)
            gains_db.append(gain_db)
            starts.append(start)
            length = max(length, start + len(wave))

        speech = np.zeros(length, np.float32)
        tracks = []
        for source, wave, gain_db, start in zip(utterances, waves, gains_db, starts, strict=True):
            audio = np.pad(amplify(wave, gain_db), (start, length - start - len(wave)))
            speech += audio
            tracks.append(_Track(source, audio, onset_s(audio, rate), start / rate, gain_db))
        # Sort by the first sound, not by the start of the recording, which may begin with silence.
        tracks.sort(key=lambda track: track.onset_s)
        details: MixDetails = {"utterances": [], "offsets_s": [], "onsets_s": [], "gains_db": []}
        for track in tracks:
            details["utterances"].append(track.utterance.id)
            details["offsets_s"].append(track.offset_s)
            details["onsets_s"].append(track.onset_s)
            details["gains_db"].append(track.gain_db)
        input_audio = self._add_noise(speech, utterances, rate, rng, details)
        return _mixture_example(tracks[0].utterance, tracks, input_audio), details

    def _make_pitch_shifted(
        self, utterance: Utterance, rate: int, rng: np.random.Generator
    ) -> tuple[AudioExample, MixDetails]:
        target = _read_audible(utterance, rate)
        pitch = _draw_factor(self.config.pitch, rng)
        formants = _draw_factor(self.config.formants, rng)
        input_audio = effects.shift_pitch_and_formants(target, rate, pitch, formants, rng)
        return AudioExample(utterance, target, input_audio), {"pitch": pitch, "formants": formants}

    def _add_noise(
        self, speech: Waveform, sources: list[Utterance], rate: int, rng: np.random.Generator, details: MixDetails
    ) -> Waveform:
        """Draw a kind of noise and an SNR, write them into `details` and add the noise. It may draw no noise at all."""
        # What the probabilities leave of 1 is the probability of no noise.
        kinds = [*self.config.noise, None]
        thresholds = np.cumsum(list(self.config.noise.values()))
        kind = kinds[int(np.searchsorted(thresholds, rng.random(), side="right"))]
        details["noise"] = kind
        if kind is None:
            return speech
        noise, details["noise_id"] = self._draw_noise(kind, len(speech), sources, rate, rng)
        details["snr_db"] = _draw_uniform(self.config.snr_db, rng)
        gain_db = active_level_db(speech, rate) - details["snr_db"] - level_db(noise)
        return speech + amplify(noise, gain_db)

    def _draw_noise(
        self, kind: str, length: int, sources: list[Utterance], rate: int, rng: np.random.Generator
    ) -> tuple[Waveform, str | list[str]]:
        """Return (length,) noise, and its color or the ids of its recordings."""
        if kind == "colored":
            return colored_noise(length, rate, rng)
        if kind == "modulated":
            return modulated_noise(length, rate, rng)
        if kind == "recorded":
            indices = self._part_of(sources[0]).noise
            index = indices[int(rng.integers(len(indices)))]
            return cut_noise(self._read_noise(index, rate), length, rate, rng), self.noise[index].id
        lowest, highest = _NUM_BABBLE_VOICES
        waves = []
        ids = []
        for _ in range(rng.integers(lowest, highest + 1)):
            voice = self._draw_other_speaker(sources, rng)
            waves.append(_read_audible(voice, rate))
            ids.append(voice.id)
        return babble_noise(waves, length, rate, rng), ids

    def _draw_utterances(self, utterance: Utterance, rng: np.random.Generator) -> list[Utterance]:
        """Return the utterances of a mixture, this one first and each of a different speaker."""
        assert self.config.num_speakers is not None, "MixConfig checks this"
        lowest, highest = self.config.num_speakers
        count = int(rng.integers(lowest, highest + 1))
        utterances = [utterance]
        while len(utterances) < count:
            utterances.append(self._draw_other_speaker(utterances, rng))
        return utterances

    def _draw_other_speaker(self, utterances: list[Utterance], rng: np.random.Generator) -> Utterance:
        """Draw an utterance of a speaker who speaks none of `utterances`."""
        taken = set(map(speaker_key, utterances))
        corpus = self._part_of(utterances[0]).corpus
        # The constructor has checked that there are enough speakers, so this ends.
        while True:
            other = corpus[int(rng.integers(len(corpus)))]
            if speaker_key(other) not in taken:
                return other

    def _part_of(self, utterance: Utterance) -> Part:
        """Return the part of the corpora that an utterance is mixed with."""
        return self._held_out_part if utterance.id in self._held_out_ids else self._training_part

    def _draw_gain_db(self, example: AudioExample, rate: int, rng: np.random.Generator) -> float:
        """Return the gain that brings the target to the level drawn, and no signal above full scale."""
        gain_db = 0.0
        if self.config.level_db is not None:
            gain_db = _draw_uniform(self.config.level_db, rng) - active_level_db(example.target, rate)
        peak_db = 20 * np.log10(np.abs(example.signals).max())
        return min(gain_db, -float(peak_db))

    def _check_noise(self) -> None:
        uses_recordings = self.config.noise.get("recorded", 0) > 0
        if uses_recordings and not self.noise:
            raise ValueError(
                "the recipe uses recorded noise, but there is none: name a folder with --noise, or set noise.recorded "
                "to 0"
            )
        if self.noise and not uses_recordings:
            raise ValueError("noise recordings were given with --noise, but noise.recorded of the recipe is 0")

    def _check_speakers(self) -> None:
        unnamed = []
        for utterance in self.corpus:
            if utterance.sources:
                raise ValueError(
                    f"the corpus already consists of mixed speech ({utterance.id} has its sources): leave out --mix, "
                    "or name a folder of clean speech"
                )
            if utterance.speaker is None:
                unnamed.append(utterance.id)
        if self.config.kind == "mixture" and unnamed:
            raise ValueError(
                f"a mixture needs different speakers, and {len(unnamed)} utterances name none, first {unnamed[0]}: add "
                "a column speaker to the manifest of the corpus"
            )
        needed = self.config.min_speakers
        purpose = f"{self.config.max_speakers} speakers"
        if needed > self.config.max_speakers:
            purpose += " and another speaker for babble"
        num_speakers = len(set(map(speaker_key, self.corpus)))
        # An empty corpus is reported by the tokenization.
        if 0 < num_speakers < needed:
            raise ValueError(
                f"the recipe mixes {purpose}, and the corpus has {num_speakers} speaker(s): add recordings of others, "
                "or lower num_speakers or set noise.babble to 0 in the recipe"
            )


class Premixed:
    """Reads a corpus whose recordings have `sources`, with the interface of a `Mixer`. Nothing is drawn.

    Args:
        corpus: from `read_corpus`.

    Raises:
        ValueError: Some recordings have no sources.
    """

    def __init__(self, corpus: Sequence[Utterance]) -> None:
        self.rows = list(corpus)
        clean = [row.id for row in self.rows if not row.sources]
        if clean:
            raise ValueError(f"{len(clean)} of {len(self.rows)} recordings have no sources, first {clean[0]}")

    @property
    def input_name(self) -> str:
        """What the model's input is called: "noisy" or "mixture". Its columns start with this word."""
        return "mixture" if self.max_signals > 2 else "noisy"

    @property
    def max_signals(self) -> int:
        """Highest number of signals in an example: the input and its sources."""
        return 1 + max(len(row.sources) for row in self.rows)

    def describe(self) -> dict[str, Any]:
        """Return the section `mix` of a manifest: which version, such as mix_clean or mix_both, was read."""
        folders = {Path(str(row.audio)).parent.name for row in self.rows}
        return {"kind": self.input_name, "folders": sorted(folders)}

    def example(self, row: Utterance, sampling_rate: int) -> AudioExample:
        """Read the example of one of `rows`, with its sources in the order in which they start to speak.

        Args:
            row: one of `rows`.
            sampling_rate: rate of the signals in Hz.

        Raises:
            OSError, ValueError: A recording cannot be read, is silent, or differs from the others in length.
        """
        input_audio, _ = row.read(sampling_rate)
        tracks = []
        for source in row.sources:
            wave, _ = source.read(sampling_rate)
            if len(wave) != len(input_audio):
                raise ValueError(
                    f"{source.audio} has {len(wave)} samples and {row.audio} {len(input_audio)} at {sampling_rate} Hz: "
                    "a source must be as long as the recording it is part of"
                )
            tracks.append(_Track(source, wave, onset_s(wave, sampling_rate)))
        tracks.sort(key=lambda track: track.onset_s)
        mix: MixDetails = {"utterances": [], "onsets_s": []}
        for track in tracks:
            mix["utterances"].append(track.utterance.id)
            mix["onsets_s"].append(round(track.onset_s, 6))
        first = tracks[0].utterance
        utterance = Utterance(row.id, row.audio, first.text, first.speaker, extra=row.extra)
        example = _mixture_example(utterance, tracks, input_audio)
        columns = {"utterance": first.id, "mix": json.dumps(mix), **example.columns}
        return dataclasses.replace(example, columns=columns)


@dataclass(frozen=True)
class _Track:
    """One source of a mixture."""

    utterance: Utterance
    audio: Waveform  # (T,), with silence before it starts and after it ends
    onset_s: float  # time of the first sound
    offset_s: float = 0.0  # time at which the recording starts
    gain_db: float = 0.0  # relative to the recording


def _mixture_example(utterance: Utterance, tracks: list[_Track], input_audio: Waveform) -> AudioExample:
    """Make an example of a mixture with a target for each track, the first track's first."""
    columns: dict[str, list[str | None]] = {"texts": [], "speakers": []}
    others = []
    for track in tracks:
        columns["texts"].append(track.utterance.text)
        columns["speakers"].append(track.utterance.speaker)
        others.append(track.audio)
    target = others.pop(0)
    return AudioExample(utterance, target, input_audio, tuple(others), columns)


def _read_audible(utterance: Utterance, rate: int) -> Waveform:
    """Read (T,), refusing silence. Errors name the recording, since an example may need several."""
    try:
        wave, _ = utterance.read(rate)
        active_level_db(wave, rate)
    except ValueError as error:
        raise ValueError(f"{utterance.audio}: {error}") from None
    return wave


def _draw_uniform(limits: Range | None, rng: np.random.Generator) -> float:
    assert limits is not None, "MixConfig checks this"
    return float(rng.uniform(*limits))


def _draw_factor(limits: Range | None, rng: np.random.Generator) -> float:
    assert limits is not None, "MixConfig checks this"
    return float(np.exp(rng.uniform(*np.log(limits))))


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
