"""Speech generated while a model is trained, for ears and for a few numbers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...tokenizer.files import write_whole
from ..features import max_positions
from ..generation import Generation
from ..info import text_window
from ..model import SpeechLM
from ..sampling import generation_defaults
from ..templates import Prompt, Template
from .examples import Examples
from .sound import write_spans

WordErrors = Callable[[np.ndarray, int, str], tuple[int, int]]  # audio (T,), Hz, what was said -> wrong words, words


class Samples:
    """Answers a few validation rows and writes what comes out beside the original, `folder/step-N/*.wav` and `.txt`.

    Args:
        lm: the model, in training.
        examples: validation rows, of which the first few of each task are used.
        count: how many in all; 0 for none.
        folder: where to.
        word_errors: what counts wrong words, if somebody can.
    """

    def __init__(
        self, lm: SpeechLM, examples: Examples, count: int, folder: Path, word_errors: WordErrors | None = None
    ) -> None:
        self.lm, self.folder, self.word_errors = lm, folder, word_errors
        places = [
            (turn, number, source.template, source.rows[place])
            for number, (source, stats) in enumerate(zip(examples.sources, examples.stats, strict=True))
            for turn, place in enumerate(stats.kept[:count])
            if source.template.name != "text"  # nothing to answer
        ]
        in_turns = sorted(places, key=lambda item: item[:2])[:count]  # the tasks take turns
        self.rows = [(template, dict(row)) for _, _, template, row in in_turns]

    def __call__(self, step: int) -> dict[str, float]:
        """-> measures by the name that the Trainer logs them with"""
        if not self.rows:
            return {}
        folder = self.folder / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        answers = self._answer()
        reasons = Counter(answer.stop_reason for answer in answers)
        measures = {
            f"eval_stopped_{reason}": reasons[reason] / len(answers) for reason in ("end", "max_length", "constraint")
        }
        ratios, errors, words = [], 0, 0
        for i, ((template, row), answer) in enumerate(zip(self.rows, answers, strict=True)):
            name = folder / f"{i}-{template.name}"
            if template.target.kind == "text":
                said = str(self.lm.vocabulary.tokenizer.decode(answer.spans[0]))
                write_whole(name.with_suffix(".txt"), f"{said}\n{row[template.target.field]}\n".encode())
                continue
            codec, originals = self.lm.audio_tokenizer, _spans(template, row)
            spans = [torch.cat([_begun(self.lm, template, row), answer.spans[0].cpu()]), *answer.spans[1:]]
            audio = list(write_spans(codec, spans, name).values())
            write_spans(codec, originals, name.with_name(f"{name.name}-original"))
            ratios.append(sum(map(len, spans)) / max(sum(map(len, originals)), 1))
            told = len(template.segments) > 1  # what a continuation says is its own affair
            if self.word_errors and told and row.get("text") and len(audio) == 1:
                wrong, spoken = self.word_errors(audio[0], codec.output_sampling_rate, row["text"])
                errors, words = errors + wrong, words + spoken
        if ratios:
            measures["eval_duration_ratio"] = float(np.mean(ratios))
        if words:
            measures["eval_word_error_rate"] = errors / words
        return measures

    def _answer(self) -> list[Generation]:
        """As the tasks do it; those that are drawn alike in one batch."""
        prompts = [
            sample_prompt(self.lm, template, row).fit(max_positions(self.lm.model)) for template, row in self.rows
        ]
        usual = [generation_defaults(template, self.lm.code_bits) for template, _ in self.rows]
        answers: dict[int, Generation] = {}
        for sampling in dict.fromkeys(usual):
            places = [i for i, own in enumerate(usual) if own == sampling]
            generations = self.lm.generate([prompts[i] for i in places], sampling=sampling, seed=places)
            answers |= zip(places, generations, strict=True)
        return [answers[i] for i in range(len(prompts))]


def sample_prompt(lm: SpeechLM, template: Template, row: dict[str, Any]) -> Prompt:
    """What a row gives to the model, and how long the answer may be; its target is used for nothing but this:

    speech for a text has the window of the text, or up to twice its own length where the model knows no pace; speech
    for speech is as long as that; text has a bound from the duration; a continuation begins with the first half.
    """
    given = {segment.field: row[segment.field] for segment in template.segments[:-1]}
    if template.target.kind == "aligned":
        return template.prompt(lm.vocabulary, lm.unit_window(), units=row["units"], **given)
    kinds = {segment.kind for segment in template.segments[:-1]}
    if template.target.kind == "text":
        seconds = row.get("num_samples", 0) / lm.audio_tokenizer.sampling_rate
        return template.prompt(lm.vocabulary, text_window(seconds), **given)
    spans = _spans(template, row)
    codes = len(spans[0])
    if not kinds:
        begun = _begun(lm, template, row)
        return template.prompt(lm.vocabulary, (1, 2 * (codes - len(begun))), begun=begun)
    if "text" not in kinds:
        return template.prompt(lm.vocabulary, (codes, codes), streams=len(spans), **given)
    window = lm.info.length_window
    rate = lm.audio_tokenizer.tokens_per_second
    return template.prompt(lm.vocabulary, window.tokens(len(row["text"]), rate) if window else (1, 2 * codes), **given)


def _begun(lm: SpeechLM, template: Template, row: dict[str, Any]) -> torch.Tensor:
    """Codes that a sample begins with: half of the frames where nothing else is given, otherwise none"""
    codes, K = torch.as_tensor(_spans(template, row)[0]).long(), lm.audio_tokenizer.num_codebooks
    return codes[: len(codes) // K // 2 * K if len(template.segments) == 1 else 0]


def _spans(template: Template, row: dict[str, Any]) -> list[Any]:
    """The codes of the target: of every stream, or of the only one."""
    value = row[template.target.field]
    return list(value) if template.target.streams else [value]
