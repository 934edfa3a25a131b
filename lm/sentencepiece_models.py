"""Sentencepiece models as fast tokenizers of transformers: convert a `.model` file, or train a new one on texts."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_MODEL: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # protobuf makes the class at run time
_SPACE = "\u2581"  # sentencepiece's symbol for a space
_PIECE = _MODEL.SentencePiece
# Values of trainer_spec.model_type.
_UNIGRAM = 1
_BPE = 2


def train_unigram(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a unigram tokenizer, which normalizes text to NFKC and lower case.

    Args:
        texts: sentences to train on.
        size: maximum number of pieces; few texts give fewer.

    Raises:
        ValueError: there is no text, or `size` is smaller than the number of characters in the texts.
    """
    model = io.BytesIO()
    # The normalization tables of sentencepiece are not exact outside of it, so text is normalized before.
    fold = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")])
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(fold.normalize_str, texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,  # bytes; sentencepiece skips longer sentences
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"sentencepiece cannot make {size} pieces of these texts ({error}): give more text or another size"
        ) from None
    tokenizer = _convert(model.getvalue(), "the trained model")
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([fold, backend.normalizer])
    return tokenizer


def load_sentencepiece(path: Path | str) -> PreTrainedTokenizerFast:
    """Load a sentencepiece `.model` file, unigram or BPE, as a fast tokenizer that gives the same ids.

    Raises:
        ValueError: the file is no sentencepiece model, or of a kind that fast tokenizers cannot express.
    """
    return _convert(Path(path).read_bytes(), str(path))


def _convert(content: bytes, name: str) -> PreTrainedTokenizerFast:
    proto = _MODEL()
    try:
        proto.ParseFromString(content)
    except Exception:
        # Any exception: the class of protobuf's error moved between its versions. A cleared model fails the next check.
        proto.Clear()
    kind = proto.trainer_spec.model_type
    if not proto.pieces or kind not in (_UNIGRAM, _BPE) or proto.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(
            f"{name} is no sentencepiece model of the kinds unigram or bpe with spaces before words: name another "
            "file, or a tokenizer.json"
        )
    backend = Tokenizer(_unigram(proto) if kind == _UNIGRAM else _bpe(proto))
    backend.normalizer = _normalizer(proto.normalizer_spec)
    symbols = _pieces_of_type(proto, _PIECE.USER_DEFINED)
    if symbols and kind == _BPE:
        # Sentencepiece never merges across a user-defined symbol.
        longest_first = sorted(symbols, key=len, reverse=True)
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(parts)
    special_tokens = []
    for piece in _pieces_of_type(proto, _PIECE.CONTROL, _PIECE.UNKNOWN):
        special_tokens.append(AddedToken(piece, special=True, normalized=False))
    backend.add_special_tokens(special_tokens)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=proto.pieces[_unknown_id(proto)].piece)


def _pieces_of_type(proto: Any, *types: int) -> list[str]:
    return [piece.piece for piece in proto.pieces if piece.type in types]


def _unigram(proto: Any) -> models.Unigram:
    best_score = max(piece.score for piece in proto.pieces if piece.type == _PIECE.NORMAL)
    vocabulary = []
    for piece in proto.pieces:
        score = piece.score
        if piece.type == _PIECE.USER_DEFINED:
            # Sentencepiece scores a user-defined symbol above any other pieces that cover it.
            score = len(piece.piece) * best_score - 0.1
        vocabulary.append((piece.piece, score))
    return models.Unigram(vocabulary, _unknown_id(proto), proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """Convert a BPE model.

    Sentencepiece merges the pair whose whole scores best, however it is split; here every split is a separate merge.
    """
    scores = {}
    ids = {}
    for i, piece in enumerate(proto.pieces):
        ids[piece.piece] = i
        if piece.type in (_PIECE.NORMAL, _PIECE.UNUSED):
            scores[piece.piece] = piece.score
    ranked_merges = []
    for whole, score in scores.items():
        for i in range(1, len(whole)):
            left = whole[:i]
            right = whole[i:]
            if left in scores and right in scores:
                ranked_merges.append((-score, ids[left], ids[right], left, right))
    merges = []
    for _, _, _, left, right in sorted(ranked_merges):
        merges.append((left, right))
    return models.BPE(
        vocab=ids,
        merges=merges,
        unk_token=proto.pieces[_unknown_id(proto)].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
        ignore_merges=bool(_pieces_of_type(proto, _PIECE.USER_DEFINED)),
    )


def _normalizer(spec: Any) -> normalizers.Sequence:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        if "nfkc" in spec.name:
            steps.append(normalizers.NFKC())
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:
        # Sentencepiece also removes trailing space symbols that are written in the text.
        steps.append(normalizers.Replace(Regex(_SPACE + r"+\z"), ""))
    return normalizers.Sequence(steps)


def _unknown_id(proto: Any) -> int:
    return next(i for i, piece in enumerate(proto.pieces) if piece.type == _PIECE.UNKNOWN)
