"""Measuring on recordings with transcripts: intelligibility by a recogniser, distance by mel, with intervals."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.corpora import Utterance, read_corpus
from ..data.mixing import Mixer, read_recipe
from ..lm import SpeechLM
from ..tokenizer import AudioTokenizer, resample
from ..tokenizer.focalcodec.mel import log_mel
from ..tokenizer.training.validation import code_use
from .enhancement import enhance
from .metrics import MISSING, word_counter
from .separation import separate
from .tts import speak

Recogniser = Callable[[np.ndarray, int], str]  # audio (T,), rate -> text


@dataclass(frozen=True)
class Row:
    """One line of a table: word errors and words of every item, where there is a recogniser."""

    name: str
    errors: list[int]
    words: list[int]
    note: str = ""

    def cells(self, seed: int) -> str:
        """Markdown cells: name, word error rate with its 95 % interval, share of items above 50 %, note."""
        if not self.words:
            return f"| {self.name} | - | - | {self.note} |"
        low, high = bootstrap(self.errors, self.words, seed)
        failed = np.mean([e > 0.5 * w for e, w in zip(self.errors, self.words, strict=True)])
        rate = sum(self.errors) / sum(self.words)
        interval = f"{100 * rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        return f"| {self.name} | {interval} | {100 * failed:.0f} | {self.note} |"


def evaluate_task(
    task: str,
    data: Path,
    model: str,
    limit: int,
    scorer: str,
    seed: int,
    mix: Path | None = None,
    noise: Path | None = None,
) -> str:
    """-> a Markdown table; see `focallm evaluate --help` for the arguments.

    Raises:
        ValueError: an unknown task, recordings without transcripts, or a recipe that is missing or of no use here.
    """
    if task not in ("codec", "tts", "se", "ss"):
        raise ValueError(f"codec, tts, se and ss can be evaluated, found {task!r}")
    items = read_with_texts(data)
    if (mix is not None) != (task in ("se", "ss")):
        raise ValueError("se and ss, and only they, need --mix: how the recordings that the model hears are made")
    mixer = None if mix is None else Mixer(read_recipe(mix), items, read_corpus(noise) if noise else ())
    items = choose(items if mixer is None else mixer.rows, limit, seed)
    recognise = None if scorer == "mel" else load_recogniser(scorer)
    if mixer is not None:
        rows = mixed_rows(task, mixer, items, SpeechLM.from_pretrained(model), recognise)
    elif task == "codec":
        rows = codec_rows(items, AudioTokenizer.from_pretrained(model), recognise)
    else:
        rows = tts_rows(items, SpeechLM.from_pretrained(model), recognise, seed)
    return "\n".join(
        [
            f"{task} {model} on {data.name}, n = {len(items)}, seed {seed}, scorer {Path(scorer).name}",
            "",
            "| | word error rate, % (95 % interval) | items above 50 % | |",
            "|---|---|---|---|",
            *(row.cells(seed) for row in rows),
        ]
    )


def read_with_texts(data: Path) -> list[Utterance]:
    """The utterances of a corpus that have a transcript.

    Raises:
        ValueError: none has.
    """
    items = [item for item in read_corpus(data) if item.text]
    if not items:
        raise ValueError(f"{data} has no transcripts: evaluation needs a text for each recording")
    return items


def choose(items: list[Utterance], limit: int, seed: int) -> list[Utterance]:
    """At most `limit` of them, chosen by the seed; all for 0."""
    if not 0 < limit < len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), limit, replace=False))]


def codec_rows(items: Sequence[Utterance], tokenizer: AudioTokenizer, recognise: Recogniser | None) -> list[Row]:
    """The recordings themselves (the recogniser's own errors), and the same through the codec."""
    original: list[str] = []
    decoded: list[str] = []
    distances = []
    tokens = []
    for item in items:
        audio, rate = item.read(tokenizer.sampling_rate)
        ids, again = through_codec(tokenizer, audio)
        tokens.append(ids)
        distances.append(mel_distance(audio, again, rate))
        if recognise:
            original.append(recognise(audio, rate))
            decoded.append(recognise(again, rate))
    use = code_use(torch.cat(tokens), tokenizer.vocab_size)
    note = (
        f"mel distance {np.mean(distances):.3f}, {use['codes_used']:.0f} of {tokenizer.vocab_size} codes in "
        f"{use['tokens']:.0f} tokens, entropy {use['entropy_bits']:.2f} bits"
    )
    texts = [item.text or "" for item in items]
    return [_row("recording", texts, original), _row("through the codec", texts, decoded, note)]


def tts_rows(items: Sequence[Utterance], lm: SpeechLM, recognise: Recogniser | None, seed: int) -> list[Row]:
    """Speech written for the transcripts, between the recordings and what the codec leaves of them."""
    texts = [item.text or "" for item in items]
    heard, seconds, unfinished = [], 0.0, 0
    for i, text in enumerate(texts):
        result = speak(text, lm, seed=seed + 1000 * i)
        seconds += result.stats["seconds"]
        unfinished += result.stop_reason != "end"
        if recognise:
            heard.append(recognise(result.audio, result.sampling_rate))
    reference = sum(len(item.read(16000)[0]) for item in items) / 16000
    note = f"{unfinished} without an end, {seconds / reference:.2f} of the recordings' duration"
    return [*codec_rows(items, lm.audio_tokenizer, recognise), _row("spoken", texts, heard, note)]


def mixed_rows(
    task: str, mixer: Mixer, items: Sequence[Utterance], lm: SpeechLM, recognise: Recogniser | None
) -> list[Row]:
    """What a model makes of noise or of several talkers, between doing nothing and what the codec leaves of the best.

    Every talker counts, in the order of who speaks first: the model has to keep it, nobody sorts its answers.
    """
    tokenizer = lm.audio_tokenizer
    rate, heard = tokenizer.sampling_rate, {"se": "noisy", "ss": "mixture"}[task]
    if mixer.recipe.heard != heard:
        raise ValueError(f"{task} needs a recipe of kind {heard}, found {mixer.recipe.kind}")
    texts: list[str] = []
    targets: list[np.ndarray] = []
    heard_as: dict[str, list[np.ndarray]] = defaultdict(list)  # name of a row -> one signal per target
    for item in items:
        example = mixer.example(item, rate)
        assert example.heard is not None
        own = [example.target, *example.others]
        texts += example.facts.get("texts") or [item.text or ""]
        targets += own
        heard_as["recording"] += own
        heard_as["recording through the codec"] += [through_codec(tokenizer, wave)[1] for wave in own]
        heard_as[heard] += [example.heard] * len(own)
        heard_as[f"{heard} through the codec"] += [through_codec(tokenizer, example.heard)[1]] * len(own)
        result: Any = enhance(example.heard, lm, rate) if task == "se" else separate(example.heard, lm, len(own), rate)
        heard_as["enhanced" if task == "se" else "separated"] += [
            resample(wave, result.sampling_rate, rate) for wave in np.atleast_2d(result.audio)
        ]
    rows = []
    for name, audios in heard_as.items():
        distance = np.mean([mel_distance(a, b, rate) for a, b in zip(targets, audios, strict=True)])
        said = [recognise(wave, rate) for wave in audios] if recognise else []
        rows.append(_row(name, texts, said, f"mel distance {distance:.3f}"))
    return rows


def through_codec(tokenizer: AudioTokenizer, audio: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """(T,) at the codec's rate -> its ids, and the same again at that rate"""
    encoded = tokenizer(audio)
    again = tokenizer.decode(encoded["input_ids"][0], num_samples=int(encoded["num_samples"][0]))
    return encoded["input_ids"][0], resample(again, tokenizer.output_sampling_rate, tokenizer.sampling_rate)


def mel_distance(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    """Mean absolute difference of two (T,) log-mel spectrograms, in nats of magnitude; what one lasts longer is cut."""
    size = min(len(a), len(b))
    x, y = (log_mel(torch.from_numpy(wave[:size])[None].float(), rate, 1024, 320, 80) for wave in (a, b))
    return float((x - y).abs().mean())


def load_recogniser(folder: str) -> Recogniser:
    """A Whisper model in faster-whisper's layout, greedy, English.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError(MISSING) from None
    whisper = WhisperModel(folder, device="cpu", compute_type="int8")

    def recognise(audio: np.ndarray, rate: int) -> str:
        segments, _ = whisper.transcribe(
            resample(audio, rate, 16000),
            language="en",
            beam_size=1,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text for segment in segments)

    return recognise


def bootstrap(errors: Sequence[int], words: Sequence[int], seed: int, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the word error rate over items drawn with replacement."""
    e, w = np.asarray(errors), np.asarray(words)
    index = np.random.default_rng(seed).integers(len(e), size=(draws, len(e)))
    low, high = np.percentile(e[index].sum(1) / w[index].sum(1), [2.5, 97.5])
    return float(low), float(high)


def _row(name: str, texts: Sequence[str], heard: Sequence[str], note: str = "") -> Row:
    if not heard:
        return Row(name, [], [], note)
    count = word_counter()
    counts = [count(text, hypothesis) for text, hypothesis in zip(texts, heard, strict=True)]
    return Row(name, [wrong for wrong, _ in counts], [words for _, words in counts], note)
