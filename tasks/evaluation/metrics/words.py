"""Error rates of what recognizers hear: wrong words and wrong phonemes. T samples."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any

import numpy as np

from .asr import ASR, asr_name, load_asr
from .metric import RATE, CachedModel, EvalSample, Metric, Scores, version

# Scripts without spaces between words, by the beginning of the Unicode names of their characters.
_CHINESE_AND_JAPANESE = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO")
_SCRIPTS_WITHOUT_SPACES = (*_CHINESE_AND_JAPANESE, "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_MISSING_PACKAGES = "word error rates need rapidfuzz and whisper-normalizer: pip install 'focallm[eval]'"


class Words(Metric):
    """Count wrong words of the ASR transcript. Rates are sums of errors over sums of words.

    Measures `transcript`; `errors` of `words` against the text (word error rate, WER); and `dwer_errors` of
    `dwer_words` against the transcript of the target (dWER: the words that a system changes). Audio without sound has
    an empty transcript. Where the reference has no words, the words that were heard are errors of 0 words: they count
    in the rate of all samples, but the sample has no rate of its own.

    Args:
        source: ASR model, as in `load_asr`.
        language: Language of the speech, as a code of Whisper; None lets Whisper detect it.
        stands_in_for: Model that this one replaces, for the record.
    """

    name = "words"

    def __init__(self, source: str, language: str | None = "en", stands_in_for: str = "") -> None:
        self.source = source
        self.language = language
        self.stands_in_for = stands_in_for
        # A lambda, so that the ASR model is loaded when the first wave needs it.
        self._transcribe = CachedModel(lambda waves: self._asr.transcribe(waves), output_of_silence="")

    @property
    def checkpoint(self) -> str:
        """ASR model, its version and language, and the model that it replaces."""
        checkpoint = f"{asr_name(self.source)}, {self.language or 'any language'}"
        if self.stands_in_for:
            checkpoint += f" (stand-in for {self.stands_in_for})"
        return checkpoint

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a text or a target."""
        return bool(sample.text) or sample.target is not None

    def expected(self, sample: EvalSample) -> Sequence[str]:
        """Return the names of the error counts."""
        names = ["errors"] if sample.text else []
        if sample.target is not None:
            names.append("dwer_errors")
        return names

    def load(self) -> None:
        """Load the ASR model.

        Raises:
            ImportError: A package is not installed.
        """
        _ = self.count

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Transcribe the samples and count wrong words."""
        transcripts, target_transcripts = _of_samples_and_targets(self._transcribe, samples)
        scores: list[Scores] = []
        for sample, transcript in zip(samples, transcripts, strict=True):
            score: Scores = {"transcript": transcript, "language": self.language}
            if sample.text:
                score["errors"], score["words"] = self.count(sample.text, transcript)
            if sample.target is not None:
                score["dwer_errors"], score["dwer_words"] = self.count(next(target_transcripts), transcript)
            scores.append(score)
        return scores

    @cached_property
    def count(self) -> Callable[[str, str], tuple[int, int]]:
        """The `word_counter` of the ASR model and its language."""
        return word_counter(self.language, self._asr.spellings)

    @cached_property
    def _asr(self) -> ASR:
        return load_asr(self.source, self.language)


class Phonemes(Metric):
    """Count wrong phonemes against those that the recognizer hama reads from the target. It has nothing of Whisper.

    Measures `phoneme_errors` of `phonemes`. Its weights are part of its package, and know English and Korean.
    """

    name = "phonemes"
    score_names = ("phoneme_errors",)

    def __init__(self) -> None:
        self._read = CachedModel(self._read_waves, output_of_silence=())

    @property
    def checkpoint(self) -> str:
        """The package, which contains its weights."""
        return f"{version('hama')}, against its reading of the target"

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a target."""
        return sample.target is not None

    def load(self) -> None:
        """Load the model.

        Raises:
            ImportError: hama or rapidfuzz is not installed.
        """
        _ = self._model
        _ = count_errors((), ())

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Read the phonemes of the samples and of their targets, and count the wrong ones."""
        readings, target_readings = _of_samples_and_targets(self._read, samples)
        scores: list[Scores] = []
        for reading, target_reading in zip(readings, target_readings, strict=True):
            errors = count_errors(target_reading, reading)
            scores.append({"phoneme_errors": errors, "phonemes": len(target_reading)})
        return scores

    def _read_waves(self, waves: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
        readings = []
        for wave in waves:
            readings.append(tuple(self._model.transcribe_waveform(wave, RATE).phonemes))
        return readings

    @cached_property
    def _model(self) -> Any:
        try:
            from hama import ASRModel
        except ImportError:
            raise ImportError("phoneme error rates need hama: pip install 'focallm[eval]'") from None
        return ASRModel()


def _of_samples_and_targets(model: CachedModel, samples: Sequence[EvalSample]) -> tuple[list[Any], Iterator[Any]]:
    """Run a model on the samples, and on the targets of those that have one."""
    waves = [sample.audio for sample in samples]
    rates = [sample.rate for sample in samples]
    for sample in samples:
        if sample.target is not None:
            waves.append(sample.target)
            rates.append(sample.rate)
    outputs = model(waves, rates)
    return outputs[: len(samples)], iter(outputs[len(samples) :])


def word_counter(
    language: str | None = "en", spellings: dict[str, str] | None = None
) -> Callable[[str, str], tuple[int, int]]:
    """Make a function (text, transcript) -> (wrong words, words of the text).

    Both texts are normalized. In scripts without spaces, such as Chinese, Japanese and Thai, every character counts as
    a word. A text without words has as many errors as words were heard.

    Args:
        language: "en" takes Whisper's normalizer for English (Radford et al., 2022, arXiv 2212.04356, Appendix C), any
            other language `normalize_text`.
        spellings: British spelling -> American spelling, for English; None takes Whisper's table.

    Raises:
        ImportError: A package is not installed.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    count_errors((), ())  # raises an error if rapidfuzz is missing
    normalize: Any = normalize_text
    if language == "en":
        normalize = EnglishTextNormalizer(whisper_spellings() if spellings is None else spellings)

    def words_of(text: str) -> list[str]:
        words: list[str] = []
        for word in normalize(_join_digits(text)).split():
            # Whisper's normalizer leaves periods and signs that belong to no number.
            if any(map(str.isalnum, word)):
                words += space_characters(word).split()
        return words

    def count(text: str, transcript: str) -> tuple[int, int]:
        reference = words_of(text)
        return count_errors(reference, words_of(transcript)), len(reference)

    return count


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the smallest number of insertions, deletions and substitutions that turn one sequence into the other.

    Raises:
        ImportError: rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise ImportError(_MISSING_PACKAGES) from None
    return Levenshtein.distance(reference, hypothesis)


@cache
def whisper_spellings() -> dict[str, str]:
    """Return Whisper's table of spellings: British -> American.

    Raises:
        ImportError: whisper-normalizer, which contains it, is not installed.
    """
    try:
        table = resources.files("whisper_normalizer") / "normalizers" / "english.json"
    except ImportError:
        raise ImportError(_MISSING_PACKAGES) from None
    return json.loads(table.read_text(encoding="utf-8"))


def normalize_text(text: str) -> str:
    """Normalize a text of any language: lower case, without punctuation, symbols and words in brackets.

    Unlike Whisper's normalizer it keeps marks, because many scripts write vowels with them.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text)
    text = re.sub(r"\([^)]+?\)", "", text)
    characters = []
    for character in text:
        category = unicodedata.category(character)
        # Format characters, such as joiners, are invisible and belong to a word.
        if category != "Cf":
            characters.append(" " if category[0] in "PSZC" else character)
    return unicodedata.normalize("NFC", "".join(characters))


def space_characters(text: str) -> str:
    """Put spaces around every character of a script without spaces between words."""
    characters = []
    for character in text:
        characters.append(f" {character} " if _has_no_spaces(character) else character)
    return "".join(characters)


def counts_characters(text: str) -> bool:
    """Return whether an error rate of a text counts characters, because its script has no spaces between words."""
    return any(map(_has_no_spaces, text))


def _has_no_spaces(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_SCRIPTS_WITHOUT_SPACES)


def _join_digits(text: str) -> str:
    """Join numbers that Whisper writes digit by digit, such as 7-3-2 or 7-3-2555.

    Its normalizer turns "seven three two" into 732, so the hyphens would count as errors. Two groups of digits stay
    apart, because they may be a range.
    """
    number = r"(?<![\d-])(?:\d(?:-\d)+|\d+(?:-\d+){2,})(?![\d-])"
    return re.sub(number, lambda digits: digits[0].replace("-", ""), text)
