"""Sentencepiece models as fast tokenizers: converted by rule, and fresh ones trained from transcripts."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_MODEL: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at run time
_SPACE = "\u2581"  # what sentencepiece writes for a space
_PIECE = _MODEL.SentencePiece
_UNIGRAM, _BPE = 1, 2  # trainer_spec.model_type


def train_unigram(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A fresh unigram tokenizer; text is folded to lower case and NFKC.

    Args:
        texts: what it is to write well, one sentence each.
        size: number of pieces at most; few texts give fewer.

    Raises:
        ValueError: no text, or fewer pieces than the texts have characters.
    """
    model = io.BytesIO()
    fold = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")])
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(fold.normalize_str, texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",  # `fold` does it: the tables of sentencepiece are not exact outside it
            max_sentence_length=1 << 20,  # bytes; longer ones would be skipped
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
    """A sentencepiece `.model` file, unigram or bpe, as a fast tokenizer that gives the same ids.

    Raises:
        ValueError: no such model, or one of a kind that fast tokenizers cannot express.
    """
    return _convert(Path(path).read_bytes(), str(path))


def _convert(content: bytes, name: str) -> PreTrainedTokenizerFast:
    proto = _MODEL()
    try:
        proto.ParseFromString(content)
    except Exception:  # protobuf's own class moved between its versions
        proto.Clear()
    kind = proto.trainer_spec.model_type
    if not proto.pieces or kind not in (_UNIGRAM, _BPE) or proto.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(
            f"{name} is no sentencepiece model of the kinds unigram or bpe with spaces before words: name another "
            "file, or a tokenizer.json"
        )
    backend = Tokenizer(_unigram(proto) if kind == _UNIGRAM else _bpe(proto))
    backend.normalizer = _normalizer(proto.normalizer_spec)
    symbols = [piece.piece for piece in proto.pieces if piece.type == _PIECE.USER_DEFINED]
    if symbols and kind == _BPE:
        longest_first = sorted(symbols, key=len, reverse=True)
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(parts)
    special = [piece.piece for piece in proto.pieces if piece.type in (_PIECE.CONTROL, _PIECE.UNKNOWN)]
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=proto.pieces[_unknown(proto)].piece)


def _unigram(proto: Any) -> models.Unigram:
    best = max(piece.score for piece in proto.pieces if piece.type == _PIECE.NORMAL)
    vocabulary = [
        # As sentencepiece scores its user defined symbols: better than anything else that covers them.
        (piece.piece, len(piece.piece) * best - 0.1 if piece.type == _PIECE.USER_DEFINED else piece.score)
        for piece in proto.pieces
    ]
    return models.Unigram(vocabulary, _unknown(proto), proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """Sentencepiece joins the pair whose whole scores best, however it is split; here every split is a merge."""
    mergeable = {p.piece: p.score for p in proto.pieces if p.type in (_PIECE.NORMAL, _PIECE.UNUSED)}
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = [
        (-score, ids[whole[:at]], ids[whole[at:]], whole[:at], whole[at:])
        for whole, score in mergeable.items()
        for at in range(1, len(whole))
        if whole[:at] in mergeable and whole[at:] in mergeable
    ]
    return models.BPE(
        vocab=ids,
        merges=[(left, right) for _, _, _, left, right in sorted(merges)],
        unk_token=proto.pieces[_unknown(proto)].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
        ignore_merges=any(piece.type == _PIECE.USER_DEFINED for piece in proto.pieces),
    )


def _normalizer(spec: Any) -> normalizers.Sequence:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps += [normalizers.NFKC()] if "nfkc" in spec.name else []
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(_SPACE + r"+\z"), ""))  # sentencepiece takes those of the text as well
    return normalizers.Sequence(steps)


def _unknown(proto: Any) -> int:
    return next(i for i, piece in enumerate(proto.pieces) if piece.type == _PIECE.UNKNOWN)
