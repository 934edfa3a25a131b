"""Measuring on recordings with transcripts: intelligibility by a recogniser, distance by mel, with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.corpora import Utterance, read_corpus
from ..lm import SpeechLM
from ..tokenizer import AudioTokenizer, resample
from ..tokenizer.focalcodec.mel import log_mel
from .tts import speak
from .word_errors import MISSING, word_counter

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


def evaluate_task(task: str, data: Path, model: str, limit: int, scorer: str, seed: int) -> str:
    """-> a Markdown table; see `focallm evaluate --help` for the arguments.

    Raises:
        ValueError: an unknown task, or recordings without transcripts.
    """
    if task not in ("codec", "tts"):
        raise ValueError(f"codec and tts can be evaluated, found {task!r}")
    items = [item for item in read_corpus(data) if item.text]
    if not items:
        raise ValueError(f"{data} has no transcripts: evaluation needs a text for each recording")
    if limit and limit < len(items):
        chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
        items = [items[i] for i in sorted(chosen)]
    recognise = None if scorer == "mel" else load_recogniser(scorer)
    if task == "codec":
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


def codec_rows(items: Sequence[Utterance], tokenizer: AudioTokenizer, recognise: Recogniser | None) -> list[Row]:
    """The recordings themselves (the recogniser's own errors), and the same through the codec."""
    original: list[str] = []
    decoded: list[str] = []
    distances = []
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for item in items:
        audio, rate = item.read(tokenizer.sampling_rate)
        encoded = tokenizer(audio)
        counts += np.bincount(encoded["input_ids"][0].numpy(), minlength=len(counts))
        again = tokenizer.decode(encoded["input_ids"][0], num_samples=int(encoded["num_samples"][0]))
        again = resample(again, tokenizer.output_sampling_rate, rate)[: len(audio)]
        a, b = (log_mel(torch.from_numpy(w)[None].float(), rate, 1024, 320, 80) for w in (audio[: len(again)], again))
        distances.append(float((a - b).abs().mean()))
        if recognise:
            original.append(recognise(audio, rate))
            decoded.append(recognise(again, rate))
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    note = (
        f"mel distance {np.mean(distances):.3f}, {np.count_nonzero(counts)} of {len(counts)} codes in {counts.sum()} "
        f"tokens, entropy {entropy:.2f} bits"
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
