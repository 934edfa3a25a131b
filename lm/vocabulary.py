"""One vocabulary for text, control tokens and speech.

*Codes* are integers from a codec, *ids* are rows of this vocabulary. K codebooks, N token frames.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..tokenizer import hub
from ..tokenizer.configs import brief, errors_named, load_config, read_json
from ..tokenizer.files import write_whole
from .sentencepiece_models import load_sentencepiece, train_unigram

# Names of control tokens, which are written <|name|>. Most open a segment; a template may name others. The exceptions:
# `end` closes the target, `speaker` separates the streams of a separation, `next` marks the step from one unit of
# aligned text to the following, `feature` is the placeholder of one continuous feature, and `pad` is padding.
CONTROLS = (
    "pad", "end", "text", "speech", "voice", "reference", "source", "noisy", "mixture", "speaker", "next", "feature"
)  # fmt: skip
_FILE = "vocabulary.json"


def control_string(name: str) -> str:
    """Return the token of a control: `"speech"` -> `"<|speech|>"`."""
    return f"<|{name}|>"


def audio_string(code: int) -> str:
    """Return the token of a code: `7` -> `"<|audio_7|>"`. It is for other tools; here ids are offset + code."""
    return f"<|audio_{code}|>"


class Vocabulary:
    """A text tokenizer, a few control tokens and one contiguous range of audio ids.

    Args:
        tokenizer: a transformers tokenizer that already has the control and audio tokens, see `extend`.
        codebook_sizes: number of codes of each codebook (or of the only one). Codebooks share no audio ids.
        controls: names of control tokens in addition to `CONTROLS`.

    Raises:
        ValueError: a control token is missing, or the audio ids are not contiguous.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        # Generation appends ids to the end of a prompt, so padding has to come first. Only init_kwargs are saved.
        tokenizer.padding_side = "left"
        tokenizer.init_kwargs["padding_side"] = "left"
        self.codebook_sizes = (codebook_sizes,) if isinstance(codebook_sizes, int) else tuple(codebook_sizes)
        table = tokenizer.get_vocab()
        if not self.codebook_sizes or min(self.codebook_sizes) < 1 or self.audio_vocab_size > len(table):
            raise ValueError(
                f"codebook_sizes must be the sizes of codebooks, at most {len(table)} in all, the size of the "
                f"tokenizer; found {brief(self.codebook_sizes)}"
            )
        required = {"pad", "end", *controls}
        missing = []
        self.controls: dict[str, int] = {}
        for name in dict.fromkeys([*CONTROLS, *controls]):
            token = control_string(name)
            if token in table:
                self.controls[name] = table[token]
            elif name in required:
                missing.append(token)
        audio_ids = [table.get(audio_string(code)) for code in range(self.audio_vocab_size)]
        if missing or None in audio_ids:
            raise ValueError(
                f"the tokenizer lacks {missing or 'audio tokens'}: build it with Vocabulary.extend or .characters"
            )
        self.audio_offset: int = table[audio_string(0)]
        if audio_ids != list(self.audio_range):
            raise ValueError("the audio ids are not contiguous: add all <|audio_i|> tokens in one call, in order")

    @classmethod
    def extend(
        cls, tokenizer: PreTrainedTokenizerBase, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Add the control and audio tokens to a transformers tokenizer, which is changed in place.

        Raises:
            ValueError: the tokenizer gives no ids for text.
        """
        if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
            raise ValueError("the tokenizer gives no ids for text: its files are incomplete, fetch them again")
        names = list(dict.fromkeys([*CONTROLS, *controls]))
        control_tokens = []
        for name in names:
            control_tokens.append(AddedToken(control_string(name), special=True, normalized=False))
        tokenizer.add_tokens(control_tokens, special_tokens=True)
        # Audio tokens are not "special", so that `skip_special_tokens` keeps them.
        num_codes = codebook_sizes if isinstance(codebook_sizes, int) else sum(codebook_sizes)
        audio_tokens = []
        for code in range(num_codes):
            audio_tokens.append(AddedToken(audio_string(code), special=False, normalized=False))
        tokenizer.add_tokens(audio_tokens)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = control_string("pad")
        return cls(tokenizer, codebook_sizes, names)

    @classmethod
    def from_base(
        cls, source: Path | str, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Load a text tokenizer and extend it.

        Args:
            source: a folder or a hub id of transformers, a `tokenizer.json` file of the tokenizers library, or a
                `.model` file of sentencepiece.
            codebook_sizes: as in `Vocabulary`.
            controls: as in `Vocabulary`.
        """
        path = Path(source)
        if not path.is_file():
            return cls.extend(load_text_tokenizer(source, {}), codebook_sizes, controls)
        if path.suffix == ".model":
            return cls.extend(load_sentencepiece(path), codebook_sizes, controls)
        with errors_named(path):
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        return cls.extend(tokenizer, codebook_sizes, controls)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Train a text tokenizer on texts, in lower case, and extend it; see `train_unigram`.

        Args:
            texts: what to train on.
            size: maximum number of text tokens.
            codebook_sizes: as in `Vocabulary`.
            controls: as in `Vocabulary`.
        """
        return cls.extend(train_unigram(texts, size), codebook_sizes, controls)

    @classmethod
    def characters(
        cls, texts: Sequence[str], codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Make a vocabulary whose text tokens are the lower-case characters of some texts."""
        alphabet = sorted(set("".join(texts).lower()) | set(" abcdefghijklmnopqrstuvwxyz'"))
        unknown = "<|unknown|>"
        table = {unknown: 0}
        for character in alphabet:
            table[character] = len(table)
        backend = Tokenizer(models.WordLevel(table, unk_token=unknown))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        )
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        backend.decoder = decoders.Fuse()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)
        return cls.extend(tokenizer, codebook_sizes, controls)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __repr__(self) -> str:
        return (
            f"Vocabulary({self.audio_offset} text and control ids, {self.audio_vocab_size} audio ids of "
            f"{self.codebooks} codebook{'s' if self.codebooks > 1 else ''})"
        )

    @property
    def audio_vocab_size(self) -> int:
        """Number of audio ids."""
        return sum(self.codebook_sizes)

    @property
    def codebooks(self) -> int:
        """Number of codebooks K, which is the number of ids in a frame."""
        return len(self.codebook_sizes)

    @property
    def audio_range(self) -> range:
        """All audio ids."""
        return range(self.audio_offset, self.audio_offset + self.audio_vocab_size)

    @cached_property
    def padded_size(self) -> int:
        """Number of rows of the embedding: the vocabulary size rounded up to a multiple of 64."""
        return -(-len(self) // 64) * 64

    def control(self, name: str) -> int:
        """Return the id of a control token by its name, without the brackets.

        Raises:
            ValueError: the vocabulary has no such control.
        """
        if name not in self.controls:
            raise ValueError(
                f"the vocabulary has no {control_string(name)}, only {list(self.controls)}: it was made for other "
                "tasks; train a model on this one"
            )
        return self.controls[name]

    def text_ids(self, text: str) -> list[int]:
        """Convert text to ids, without the begin and end tokens of the text tokenizer.

        Control and audio tokens that are spelled out in the text are read as ordinary characters. Accents may be
        separate characters. Halves of surrogate pairs, which no tokenizer takes, are left out.
        """
        text = unicodedata.normalize("NFC", text).encode("utf-8", "ignore").decode()
        if self._text_tokenizer is None:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self._text_tokenizer.encode(text, add_special_tokens=False).ids

    def unknown_characters(self, text: str) -> list[str]:
        """Return the characters of a text that the text tokenizer cannot spell."""
        unknown_id = self.tokenizer.unk_token_id
        unknown = []
        for character in dict.fromkeys(unicodedata.normalize("NFC", text)):
            is_half_of_pair = "\ud800" <= character <= "\udfff"
            if not character.isspace() and (is_half_of_pair or unknown_id in self.text_ids(character)):
                unknown.append(character)
        return unknown

    @cached_property
    def _text_tokenizer(self) -> Tokenizer | None:
        """The tokenizer without its control and audio tokens; None for a tokenizer that is written in Python."""
        if not self.tokenizer.is_fast:
            # With split_special_tokens, tokenizers in Python leave out all added tokens.
            return None
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in state["added_tokens"]:
            token["special"] |= token["id"] in self.audio_range
        if state["model"]["type"] == "Unigram":
            # A unigram model finds every piece of its table in a text, so special pieces are erased from the table.
            table = state["model"]["vocab"]
            kept_tokens = []
            for token in state["added_tokens"]:
                if token["special"] and token["id"] < len(table):
                    table[token["id"]][0] = ""
                else:
                    kept_tokens.append(token)
            state["added_tokens"] = kept_tokens
        state["truncation"] = None
        state["padding"] = None
        tokenizer = Tokenizer.from_str(json.dumps(state))
        tokenizer.encode_special_tokens = True  # encodes special tokens as text
        return tokenizer

    def audio_ids(self, codes: Sequence[int]) -> list[int]:
        """Convert codes, flattened over codebooks, to ids."""
        return [self.audio_offset + int(code) for code in codes]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """Convert ids to codes; ids that are not audio are left out."""
        codes = []
        for i in ids:
            if int(i) in self.audio_range:
                codes.append(int(i) - self.audio_offset)
        return codes

    def save(self, folder: Path | str) -> None:
        """Write the files of the tokenizer and `vocabulary.json` into a folder."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        values = {
            "codebook_sizes": self.codebook_sizes,
            "audio_offset": self.audio_offset,
            "controls": list(self.controls),
        }
        write_whole(folder / _FILE, json.dumps(values).encode())

    @classmethod
    def load(cls, folder: Path | str, trust_remote_code: bool = False) -> "Vocabulary":
        """Load a folder that `save` wrote.

        Args:
            folder: the folder.
            trust_remote_code: run Python code in the folder, if the tokenizer needs it.

        Raises:
            OSError: the folder has no `vocabulary.json`.
            ValueError: a file is damaged, or the tokenizer gives other ids than when it was saved.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise OSError(f"{folder} holds no {_FILE}: the folder is incomplete, copy it again")
        content = load_config(_Content, read_json(path), str(path))
        tokenizer = load_text_tokenizer(folder, {"trust_remote_code": trust_remote_code})
        with errors_named(path):
            vocabulary = cls(tokenizer, content.codebook_sizes, content.controls)
        if vocabulary.audio_offset != content.audio_offset:
            raise ValueError(
                f"the audio ids in {folder} start at {vocabulary.audio_offset}, but started at {content.audio_offset} "
                "when they were saved: the tokenizer renumbered its ids on loading because they have gaps; use a base "
                "tokenizer without gaps"
            )
        return vocabulary


@dataclass(frozen=True)
class _Content:
    """What `vocabulary.json` holds."""

    codebook_sizes: tuple[int, ...]
    audio_offset: int
    controls: tuple[str, ...] = ()


def load_text_tokenizer(source: Path | str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer of transformers.

    Args:
        source: a folder or a hub id.
        options: of `from_pretrained` of transformers, of which those of the hub and `trust_remote_code` apply.

    Raises:
        OSError: there is no such folder or hub id.
        ValueError: its files are damaged, or it needs code of its own.
    """
    download = {}
    if not Path(source).is_dir():
        download = hub.hub_options(options)
        # The error for a missing repository is clearer here than in transformers.
        hub.find_file(source, "tokenizer_config.json", options)
    with hub.remote_code_explained(source), errors_named(source):
        return AutoTokenizer.from_pretrained(source, **download, trust_remote_code=hub.trusts_remote_code(options))
