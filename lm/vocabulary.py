"""One vocabulary for text, control tokens and speech. *codes* come from a codec, *ids* are rows of this vocabulary."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..tokenizer.files import write_whole
from .sentencepiece_models import load_sentencepiece, train_unigram

# A control is written <|name|>. They open segments, but for: `end` closes the target, `speaker` stands between the
# streams of separated talkers, `next` between a unit of text and the one after it, `feature` holds the place of one
# continuous feature, `pad` fills. Templates may name others.
CONTROLS = (
    "pad", "end", "text", "speech", "voice", "reference", "source", "noisy", "mixture", "speaker", "next", "feature"
)  # fmt: skip
_FILE = "vocabulary.json"


def control_string(name: str) -> str:
    """`"speech"` -> `"<|speech|>"`"""
    return f"<|{name}|>"


def audio_string(code: int) -> str:
    """`7` -> `"<|audio_7|>"`; these strings exist for other tools, ids are computed as offset + code."""
    return f"<|audio_{code}|>"


class Vocabulary:
    """A text tokenizer, a few control tokens and one contiguous block of audio ids.

    Args:
        tokenizer: a transformers tokenizer that holds the control and audio tokens already; see `extend`.
        codebook_sizes: number of codes of each codebook, or of the only one; as many audio ids as all together.
        controls: names of control tokens beside `CONTROLS`.

    Raises:
        ValueError: a control token is missing, or the audio ids are not contiguous.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        tokenizer.padding_side = "left"  # what is written follows the last id of a prompt
        tokenizer.init_kwargs["padding_side"] = "left"  # only what stands there is saved
        self.codebook_sizes = (codebook_sizes,) if isinstance(codebook_sizes, int) else tuple(codebook_sizes)
        table = tokenizer.get_vocab()
        needed = dict.fromkeys(["pad", "end", *controls])
        names = dict.fromkeys([*CONTROLS, *needed])
        self.controls = {name: table[control_string(name)] for name in names if control_string(name) in table}  # ids
        missing = [control_string(name) for name in needed if name not in self.controls]
        audio = [table.get(audio_string(code)) for code in range(self.audio_vocab_size)]
        if missing or None in audio:
            raise ValueError(
                f"the tokenizer lacks {missing or 'audio tokens'}: build it with Vocabulary.extend or .characters"
            )
        self.audio_offset: int = table[audio_string(0)]
        if audio != list(self.audio_range):
            raise ValueError("the audio ids are not contiguous: add all <|audio_i|> tokens in one call, in order")

    @classmethod
    def extend(
        cls, tokenizer: PreTrainedTokenizerBase, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Add the control and audio tokens to any transformers tokenizer (changed in place).

        Audio tokens are not "special", so that `skip_special_tokens` keeps them, and not normalised.
        """
        names = list(dict.fromkeys([*CONTROLS, *controls]))
        added = [AddedToken(control_string(name), special=True, normalized=False) for name in names]
        total = codebook_sizes if isinstance(codebook_sizes, int) else sum(codebook_sizes)
        audio = [AddedToken(audio_string(i), special=False, normalized=False) for i in range(total)]
        if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
            raise ValueError("the tokenizer gives no ids for text: its files are incomplete, fetch them again")
        tokenizer.add_tokens(added, special_tokens=True)
        tokenizer.add_tokens(audio)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = control_string("pad")
        return cls(tokenizer, codebook_sizes, names)

    @classmethod
    def from_base(
        cls, source: Path | str, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """Extend the tokenizer that stands in a folder of transformers, on the hub, or in one file.

        Args:
            source: a folder, a hub id, a `tokenizer.json` of `tokenizers`, or a `.model` of sentencepiece.
        """
        path = Path(source)
        if not path.is_file():
            return cls.extend(AutoTokenizer.from_pretrained(source), codebook_sizes, controls)
        if path.suffix == ".model":
            return cls.extend(load_sentencepiece(path), codebook_sizes, controls)
        return cls.extend(PreTrainedTokenizerFast(tokenizer_file=str(path)), codebook_sizes, controls)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """A fresh vocabulary whose text units are learnt from the given texts, case folded; see `train_unigram`.

        Args:
            size: number of text units at most.
        """
        return cls.extend(train_unigram(texts, size), codebook_sizes, controls)

    @classmethod
    def characters(
        cls, texts: Sequence[str], codebook_sizes: int | Sequence[int], controls: Iterable[str] = ()
    ) -> "Vocabulary":
        """A fresh vocabulary whose text units are the lower-cased characters of the given texts."""
        alphabet = sorted(set("".join(texts).lower()) | set(" abcdefghijklmnopqrstuvwxyz'"))
        unknown = "<|unknown|>"
        table = {unknown: 0, **{character: i + 1 for i, character in enumerate(alphabet)}}
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

    @property
    def audio_vocab_size(self) -> int:
        """Number of audio ids."""
        return sum(self.codebook_sizes)

    @property
    def codebooks(self) -> int:
        """K, ids of a frame."""
        return len(self.codebook_sizes)

    @property
    def audio_range(self) -> range:
        """All audio ids."""
        return range(self.audio_offset, self.audio_offset + self.audio_vocab_size)

    @cached_property
    def padded_size(self) -> int:
        """Rows of the embedding: the next multiple of 64."""
        return -(-len(self) // 64) * 64

    def control(self, name: str) -> int:
        """Id of a control token, by its name without the brackets.

        Raises:
            ValueError: this vocabulary has no such control.
        """
        if name not in self.controls:
            raise ValueError(
                f"the vocabulary has no {control_string(name)}, only {list(self.controls)}: it was made for other "
                "tasks; train a model on this one"
            )
        return self.controls[name]

    def text_ids(self, text: str) -> list[int]:
        """Text -> ids, without the tokenizer's own begin and end tokens.

        What looks like a control or audio token in the text is read as the characters that it is written with.
        """
        if self._plain is None:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self._plain.encode(text, add_special_tokens=False).ids

    def unknown_characters(self, text: str) -> list[str]:
        """Those of a text that no unit of the base vocabulary spells."""
        unknown = self.tokenizer.unk_token_id
        return [c for c in dict.fromkeys(text) if not c.isspace() and unknown in self.text_ids(c)]

    @cached_property
    def _plain(self) -> Tokenizer | None:
        """The tokenizer without a way to its special and audio tokens; None if it is one written in Python."""
        if not self.tokenizer.is_fast:
            return None  # these leave out all added tokens when they are told to split special ones
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        added = state["added_tokens"]
        for token in added:
            token["special"] |= token["id"] in self.audio_range
        if state["model"]["type"] == "Unigram":  # finds every piece of its table in a text, those for control too
            table = state["model"]["vocab"]
            inside = [token for token in added if token["special"] and token["id"] < len(table)]
            for token in inside:
                table[token["id"]][0] = ""
            state["added_tokens"] = [token for token in added if token not in inside]
        plain = Tokenizer.from_str(json.dumps({**state, "truncation": None, "padding": None}))
        plain.encode_special_tokens = True  # that is: as text
        return plain

    def audio_ids(self, codes: Sequence[int]) -> list[int]:
        """Codes (flattened over codebooks) -> ids."""
        return [self.audio_offset + int(code) for code in codes]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """Ids -> codes; ids that are not audio are left out."""
        return [int(i) - self.audio_offset for i in ids if int(i) in self.audio_range]

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer's files and `vocabulary.json` into a folder."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        values = {
            "codebook_sizes": self.codebook_sizes,
            "audio_offset": self.audio_offset,
            "controls": list(self.controls),
        }
        write_whole(folder / _FILE, json.dumps(values).encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Vocabulary":
        """Read what `save` wrote."""
        path = Path(folder) / _FILE
        if not path.is_file():
            raise OSError(f"{folder} holds no {_FILE}: the folder is incomplete, copy it again")
        values = json.loads(path.read_text())
        vocabulary = cls(AutoTokenizer.from_pretrained(folder), values["codebook_sizes"], values.get("controls", ()))
        if vocabulary.audio_offset != values["audio_offset"]:
            raise ValueError(
                f"the audio ids in {folder} begin at {vocabulary.audio_offset}, but were saved at "
                f"{values['audio_offset']}: the tokenizer renumbered its ids while loading, because "
                "they have gaps; use a base tokenizer without"
            )
        return vocabulary
