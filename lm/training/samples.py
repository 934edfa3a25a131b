"""Samples that a model generates while it is trained, to listen to and to measure. K codebooks."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...tokenizer import AudioTokenizer
from ...tokenizer.audio import write_audio
from ...tokenizer.files import write_whole
from ..features import max_positions
from ..generation import Generation
from ..info import text_window
from ..model import SpeechLM
from ..sampling import Sampling, generation_defaults
from ..templates import Prompt, Template
from .dataset import ExampleDataset

# Audio (T,), its rate in Hz, its transcript -> number of wrong words, number of words.
CountWordErrors = Callable[[np.ndarray, int, str], tuple[int, int]]


class SampleWriter:
    """Generates output for a few validation rows and writes it beside the originals.

    The files are `folder/step-N/*.wav`, and `.txt` for tasks that write text.

    Args:
        lm: The model in training.
        dataset: Validation rows, of which the first few of each task are used.
        count: Number of samples of all tasks together; 0 for none.
        folder: Where to write them.
        count_word_errors: Counts wrong words, if there is an ASR model.
    """

    def __init__(
        self,
        lm: SpeechLM,
        dataset: ExampleDataset,
        count: int,
        folder: Path,
        count_word_errors: CountWordErrors | None = None,
    ) -> None:
        self.lm = lm
        self.folder = folder
        self.count_word_errors = count_word_errors
        self.rows: list[tuple[Template, dict[str, Any]]] = []
        # The tasks take turns: the first row of each, then the second of each.
        for turn in range(count):
            for source, stats in zip(dataset.sources, dataset.stats, strict=True):
                template = source.template
                has_prompt = len(template.segments) > 1 or template.target.kind != "text"
                if has_prompt and turn < len(stats.kept_rows) and len(self.rows) < count:
                    self.rows.append((template, dict(source.rows[stats.kept_rows[turn]])))

    def __call__(self, step: int) -> dict[str, float]:
        """Write samples of an update, and return measures by the names with which the Trainer logs them."""
        if not self.rows:
            return {}
        folder = self.folder / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        generations = self._generate()
        reasons = Counter(generation.stop_reason for generation in generations)
        measures: dict[str, float] = {}
        for reason in ("end", "max_length", "constraint"):
            measures[f"eval_stopped_{reason}"] = reasons[reason] / len(generations)

        duration_ratios = []
        num_wrong_words = 0
        num_words = 0
        for i, ((template, row), generation) in enumerate(zip(self.rows, generations, strict=True)):
            name = folder / f"{i}-{template.name}"
            if template.target.kind == "text":
                text = str(self.lm.vocabulary.tokenizer.decode(generation.spans[0]))
                write_whole(name.with_suffix(".txt"), f"{text}\n{row[template.target.field]}\n".encode())
                continue
            # A continuation is written with the recording that it continues.
            first_span = torch.cat([_prefix_codes(self.lm, template, row), generation.spans[0].cpu()])
            spans = [first_span, *generation.spans[1:]]
            originals = _target_spans(template, row)
            audios = list(write_spans(self.lm.audio_tokenizer, spans, name).values())
            write_spans(self.lm.audio_tokenizer, originals, name.with_name(f"{name.name}-original"))
            num_original_codes = sum(map(len, originals))
            duration_ratios.append(sum(map(len, spans)) / max(num_original_codes, 1))

            # A continuation has no transcript, and the words of several speakers cannot be separated.
            has_transcript = len(template.segments) > 1 and row.get("text") and len(audios) == 1
            if self.count_word_errors and has_transcript:
                rate = self.lm.audio_tokenizer.output_sampling_rate
                item_wrong_words, item_words = self.count_word_errors(audios[0], rate, row["text"])
                num_wrong_words += item_wrong_words
                num_words += item_words
        if duration_ratios:
            measures["eval_duration_ratio"] = float(np.mean(duration_ratios))
        if num_words:
            measures["eval_word_error_rate"] = num_wrong_words / num_words
        return measures

    def _generate(self) -> list[Generation]:
        """Generate the output of every row as the tasks do. Rows with equal sampling share a batch."""
        prompts = []
        rows_by_sampling: dict[Sampling, list[int]] = {}
        for i, (template, row) in enumerate(self.rows):
            prompts.append(sample_prompt(self.lm, template, row).fit(max_positions(self.lm.model)))
            sampling = generation_defaults(template, self.lm.code_bits)
            rows_by_sampling.setdefault(sampling, []).append(i)
        generations: dict[int, Generation] = {}
        for sampling, rows in rows_by_sampling.items():
            batch = self.lm.generate([prompts[i] for i in rows], sampling=sampling, seed=rows)
            generations.update(zip(rows, batch, strict=True))
        return [generations[i] for i in range(len(prompts))]


def write_spans(audio_tokenizer: AudioTokenizer, spans: Sequence[Any], name: Path) -> dict[Path, np.ndarray]:
    """Decode spans of codes to `name.wav`, or to `name-1.wav` and so on if there are several.

    Returns:
        Audio (T,) by file.
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    written = {}
    for i, span in enumerate(spans):
        suffix = f"-{i + 1}.wav" if len(spans) > 1 else ".wav"
        path = name.with_name(name.name + suffix)
        audio = np.asarray(audio_tokenizer.decode(span))
        write_audio(path, audio, audio_tokenizer.output_sampling_rate)
        written[path] = audio
    return written


def sample_prompt(lm: SpeechLM, template: Template, row: dict[str, Any]) -> Prompt:
    """Return the prompt for a row. The target of the row decides only how long the output may be.

    Speech for a text has the length window of the text, or up to twice the original length if the model has no window.
    Speech for speech has exactly its length. Text is limited by the duration. A continuation starts after the first
    half of the row.
    """
    inputs = template.segments[:-1]
    fields = {segment.field: row[segment.field] for segment in inputs}
    if template.target.kind == "aligned":
        return template.prompt(lm.vocabulary, lm.unit_window(), units=row["units"], **fields)
    if template.target.kind == "text":
        seconds = row.get("num_samples", 0) / lm.audio_tokenizer.sampling_rate
        return template.prompt(lm.vocabulary, text_window(seconds), **fields)

    spans = _target_spans(template, row)
    num_codes = len(spans[0])
    if not inputs:
        prefix = _prefix_codes(lm, template, row)
        return template.prompt(lm.vocabulary, (1, 2 * (num_codes - len(prefix))), target_prefix=prefix)
    if not any(segment.kind == "text" for segment in inputs):
        return template.prompt(lm.vocabulary, (num_codes, num_codes), streams=len(spans), **fields)
    length = (1, 2 * num_codes)
    if lm.info.length_window:
        length = lm.info.length_window.tokens(len(row["text"]), lm.audio_tokenizer.tokens_per_second)
    return template.prompt(lm.vocabulary, length, **fields)


def _prefix_codes(lm: SpeechLM, template: Template, row: dict[str, Any]) -> torch.Tensor:
    """Return the codes that a sample continues: the first half of the frames for a continuation, otherwise none."""
    codes = torch.as_tensor(_target_spans(template, row)[0]).long()
    if len(template.segments) > 1:
        return codes[:0]
    K = lm.audio_tokenizer.num_codebooks
    num_frames = len(codes) // K // 2
    return codes[: num_frames * K]


def _target_spans(template: Template, row: dict[str, Any]) -> list[Any]:
    """Return the codes of the target, a span for every stream."""
    value = row[template.target.field]
    return list(value) if template.target.streams else [value]
