"""Audio examples of clean targets and noisy, overlapping or disguised inputs.

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

from ...tokenizer.audio import Waveform
from ..utterance import AudioExample, Utterance
from .audio_effects import (
    active_level_db,
    amplify,
    babble_noise,
    check_room_simulator,
    colored_noise,
    cut_noise,
    disguise_voice,
    level_db,
    modulated_noise,
    onset_s,
    reverberate,
)
from .mix_config import MixConfig, Range

_NUM_BABBLE_VOICES = (4, 8)  # lowest and highest
# Noise recordings last minutes and are used again and again, so the last ones stay in memory.
_NOISE_CACHE_SIZE = 24

MixDetails = dict[str, Any]  # what was drawn for an example


class Mixer:
    """A corpus as noisy, overlapping or disguised speech. `tokenize_corpus` takes it in place of the corpus.

    Mixing is deterministic: an example depends only on the config, the corpora and the id of its row.

    Args:
        config: how to mix.
        corpus: clean speech, from `read_corpus`. The other talkers of mixtures and babble come from it, too.
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
            check_room_simulator()
        # A cache per mixer, because a decorated method would keep the mixer itself in memory.
        self._read_noise = lru_cache(_NOISE_CACHE_SIZE)(lambda index, rate: _read_audible(self.noise[index], rate))

    @property
    def input_name(self) -> str:
        """What the model's input is called: "noisy", "mixture" or "source". Its columns start with this word."""
        return self.config.input_name

    @property
    def max_signals(self) -> int:
        """Highest number of signals in an example: the input and the talkers."""
        return 1 + self.config.max_talkers

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
            example, details = self._make_disguised(utterance, sampling_rate, rng)

        # All signals get the same gain, so that the SNR and the level differences stay as drawn.
        gain_db = self._draw_gain_db(example, sampling_rate, rng)
        target, input_audio, *others = [amplify(signal, gain_db) for signal in example.signals]
        mix = json.dumps(_round_floats({**details, "gain_db": gain_db}))
        return AudioExample(
            utterance=dataclasses.replace(example.utterance, id=row.id),
            target=target,
            input_audio=input_audio,
            others=tuple(others),
            columns={"utterance": utterance.id, **example.columns, "mix": mix},
        )

    def _make_noisy(self, utterance: Utterance, rate: int, rng: np.random.Generator) -> tuple[AudioExample, MixDetails]:
        details: MixDetails = {}
        target = _read_audible(utterance, rate)
        speech = target
        if rng.random() < self.config.room_probability:
            details["rt60_s"] = _draw_uniform(self.config.rt60_s, rng)
            speech, details["distance_m"] = reverberate(target, rate, details["rt60_s"], rng)
        input_audio = self._add_noise(speech, [utterance], rate, rng, details)
        return AudioExample(utterance, target, input_audio), details

    def _make_mixture(
        self, utterance: Utterance, rate: int, rng: np.random.Generator
    ) -> tuple[AudioExample, MixDetails]:
        talkers = self._draw_talkers(utterance, rng)
        waves: list[Waveform] = []
        gains_db: list[float] = []
        starts: list[int] = []
        length = 0
        for talker in talkers:
            wave = _read_audible(talker, rate)
            # The first talker is the utterance itself, which stays at its level and starts at 0.
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
        for talker, wave, gain_db, start in zip(talkers, waves, gains_db, starts, strict=True):
            audio = np.pad(amplify(wave, gain_db), (start, length - start - len(wave)))
            speech += audio
            tracks.append(_Track(talker, audio, onset_s(audio, rate), start / rate, gain_db))
        # Sort by the first sound, not by the start of the recording, which may begin with silence.
        tracks.sort(key=lambda track: track.onset_s)
        details: MixDetails = {"utterances": [], "offsets_s": [], "onsets_s": [], "gains_db": []}
        for track in tracks:
            details["utterances"].append(track.talker.id)
            details["offsets_s"].append(track.offset_s)
            details["onsets_s"].append(track.onset_s)
            details["gains_db"].append(track.gain_db)
        input_audio = self._add_noise(speech, talkers, rate, rng, details)
        return _mixture_example(tracks[0].talker, tracks, input_audio), details

    def _make_disguised(
        self, utterance: Utterance, rate: int, rng: np.random.Generator
    ) -> tuple[AudioExample, MixDetails]:
        target = _read_audible(utterance, rate)
        pitch = _draw_factor(self.config.pitch, rng)
        formants = _draw_factor(self.config.formants, rng)
        input_audio = disguise_voice(target, rate, pitch, formants, rng)
        return AudioExample(utterance, target, input_audio), {"pitch": pitch, "formants": formants}

    def _add_noise(
        self, speech: Waveform, talkers: list[Utterance], rate: int, rng: np.random.Generator, details: MixDetails
    ) -> Waveform:
        """Draw a kind of noise and an SNR, write them into `details` and add the noise. It may draw no noise at all."""
        # What the probabilities leave of 1 is the probability of no noise.
        kinds = [*self.config.noise, None]
        thresholds = np.cumsum(list(self.config.noise.values()))
        kind = kinds[int(np.searchsorted(thresholds, rng.random(), side="right"))]
        details["noise"] = kind
        if kind is None:
            return speech
        noise, details["noise_id"] = self._draw_noise(kind, len(speech), talkers, rate, rng)
        details["snr_db"] = _draw_uniform(self.config.snr_db, rng)
        return speech + amplify(noise, active_level_db(speech, rate) - details["snr_db"] - level_db(noise))

    def _draw_noise(
        self, kind: str, length: int, talkers: list[Utterance], rate: int, rng: np.random.Generator
    ) -> tuple[Waveform, str | list[str]]:
        """Return (length,) noise, and its color or the ids of its recordings."""
        if kind == "coloured":
            return colored_noise(length, rate, rng)
        if kind == "modulated":
            return modulated_noise(length, rate, rng)
        if kind == "recorded":
            index = int(rng.integers(len(self.noise)))
            return cut_noise(self._read_noise(index, rate), length, rate, rng), self.noise[index].id
        lowest, highest = _NUM_BABBLE_VOICES
        waves = []
        ids = []
        for _ in range(rng.integers(lowest, highest + 1)):
            voice = self._draw_other_speaker(talkers, rng)
            waves.append(_read_audible(voice, rate))
            ids.append(voice.id)
        return babble_noise(waves, length, rate, rng), ids

    def _draw_talkers(self, utterance: Utterance, rng: np.random.Generator) -> list[Utterance]:
        assert self.config.talkers is not None, "MixConfig checks this"
        lowest, highest = self.config.talkers
        count = int(rng.integers(lowest, highest + 1))
        talkers = [utterance]
        while len(talkers) < count:
            talkers.append(self._draw_other_speaker(talkers, rng))
        return talkers

    def _draw_other_speaker(self, talkers: list[Utterance], rng: np.random.Generator) -> Utterance:
        """Draw an utterance of a speaker who is not among the talkers."""
        taken = set(map(_speaker_key, talkers))
        # The constructor has checked that there are enough speakers, so this ends.
        while True:
            other = self.corpus[int(rng.integers(len(self.corpus)))]
            if _speaker_key(other) not in taken:
                return other

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
                "the recipe uses recorded noise and none was given: name a folder with --noise, or set noise.recorded "
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
        needed = self.config.max_talkers
        purpose = f"{needed} talkers"
        if self.config.noise.get("babble", 0) > 0:
            needed += 1
            purpose += " and another speaker for babble"
        num_speakers = len(set(map(_speaker_key, self.corpus)))
        # An empty corpus is reported by the tokenization.
        if 0 < num_speakers < needed:
            raise ValueError(
                f"the recipe mixes {purpose}, and the corpus has {num_speakers} speaker(s): add recordings of others, "
                "or lower talkers or set noise.babble to 0 in the recipe"
            )


class Premixed:
    """A corpus of recordings with `sources`, with the interface of a `Mixer`. Nothing is drawn.

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
        """Read the example of one of `rows`, its talkers in the order in which they start to speak.

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
            mix["utterances"].append(track.talker.id)
            mix["onsets_s"].append(round(track.onset_s, 6))
        first = tracks[0].talker
        utterance = Utterance(row.id, row.audio, first.text, first.speaker, extra=row.extra)
        example = _mixture_example(utterance, tracks, input_audio)
        columns = {"utterance": first.id, "mix": json.dumps(mix), **example.columns}
        return dataclasses.replace(example, columns=columns)


@dataclass(frozen=True)
class _Track:
    """One talker of a mixture.

    Args:
        talker: the utterance.
        audio: (T,), with silence before it starts and after it ends.
        onset_s: time of the first sound.
        offset_s: time at which the recording starts.
        gain_db: gain relative to the recording.
    """

    talker: Utterance
    audio: Waveform
    onset_s: float
    offset_s: float = 0.0
    gain_db: float = 0.0


def _mixture_example(utterance: Utterance, tracks: list[_Track], input_audio: Waveform) -> AudioExample:
    """Return an example with one target per track."""
    columns: dict[str, list[str | None]] = {"texts": [], "speakers": []}
    others = []
    for track in tracks:
        columns["texts"].append(track.talker.text)
        columns["speakers"].append(track.talker.speaker)
        others.append(track.audio)
    target = others.pop(0)
    return AudioExample(utterance, target, input_audio, tuple(others), columns)


def _speaker_key(utterance: Utterance) -> str:
    """Return a key of the speaker. An utterance that names none counts as a speaker of its own."""
    return f"utterance {utterance.id}" if utterance.speaker is None else f"speaker {utterance.speaker}"


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
