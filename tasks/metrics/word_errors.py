"""Wrong words, counted as is usual for English: between texts that Whisper's normaliser has been over."""

from collections.abc import Callable

MISSING = "word error rates need faster-whisper and jiwer: pip install 'focallm[eval]'"


def word_counter() -> Callable[[str, str], tuple[int, int]]:
    """-> a function of what was to be said and what was heard, which gives the wrong words and all that were to be said

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise ImportError(MISSING) from None
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})

    def count(text: str, heard: str) -> tuple[int, int]:
        found = jiwer.process_words(normalise(text) or "-", normalise(heard))
        missed = found.substitutions + found.deletions
        return missed + found.insertions, missed + found.hits

    return count
