"""One vocabulary for text, control tokens and speech. *codes* come from a codec, *ids* are rows of this vocabulary."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data.token_store import write_whole

CONTROLS = ("pad", "text", "voice", "speech", "end")  # a control is written <|name|>
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
        audio_vocab_size: number of audio ids (codebook size x codebooks).

    Raises:
        ValueError: a control token is missing, or the audio ids are not contiguous.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, audio_vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.audio_vocab_size = audio_vocab_size
        table = tokenizer.get_vocab()
        missing = [name for name in map(control_string, CONTROLS) if name not in table]
        audio = [table.get(audio_string(code)) for code in range(audio_vocab_size)]
        if missing or None in audio:
            raise ValueError(
                f"the tokenizer lacks {missing or 'audio tokens'}: build it with Vocabulary.extend or .characters"
            )
        self.audio_offset: int = table[audio_string(0)]
        if audio != list(range(self.audio_offset, self.audio_offset + audio_vocab_size)):
            raise ValueError("the audio ids are not contiguous: add all <|audio_i|> tokens in one call, in order")
        self._controls = {name: table[control_string(name)] for name in CONTROLS}

    @classmethod
    def extend(cls, tokenizer: PreTrainedTokenizerBase, audio_vocab_size: int) -> "Vocabulary":
        """Add the control and audio tokens to any transformers tokenizer (changed in place).

        Audio tokens are not "special", so that `skip_special_tokens` keeps them, and not normalised.
        """
        controls = [AddedToken(control_string(name), special=True, normalized=False) for name in CONTROLS]
        audio = [AddedToken(audio_string(i), special=False, normalized=False) for i in range(audio_vocab_size)]
        tokenizer.add_tokens(controls, special_tokens=True)
        tokenizer.add_tokens(audio)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = control_string("pad")
        return cls(tokenizer, audio_vocab_size)

    @classmethod
    def characters(cls, texts: Sequence[str], audio_vocab_size: int) -> "Vocabulary":
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
        return cls.extend(tokenizer, audio_vocab_size)

    def __len__(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def padded_size(self) -> int:
        """Rows of the embedding: the next multiple of 64."""
        return -(-len(self) // 64) * 64

    def control(self, name: str) -> int:
        """Id of a control token, by its name without the brackets."""
        return self._controls[name]

    def text_ids(self, text: str) -> list[int]:
        """Text -> ids, without the tokenizer's own begin and end tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def audio_ids(self, codes: Sequence[int]) -> list[int]:
        """Codes (flattened over codebooks) -> ids."""
        return [self.audio_offset + int(code) for code in codes]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """Ids -> codes; ids that are not audio are left out."""
        end = self.audio_offset + self.audio_vocab_size
        return [int(i) - self.audio_offset for i in ids if self.audio_offset <= int(i) < end]

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer's files and `vocabulary.json` into a folder."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        values = {"audio_vocab_size": self.audio_vocab_size, "audio_offset": self.audio_offset}
        write_whole(folder / _FILE, json.dumps(values).encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Vocabulary":
        """Read what `save` wrote."""
        path = Path(folder) / _FILE
        if not path.is_file():
            raise OSError(f"{folder} holds no {_FILE}: the folder is incomplete, copy it again")
        values = json.loads(path.read_text())
        vocabulary = cls(AutoTokenizer.from_pretrained(folder), values["audio_vocab_size"])
        if vocabulary.audio_offset != values["audio_offset"]:
            raise ValueError(
                f"the audio ids in {folder} begin at {vocabulary.audio_offset}, but were saved at "
                f"{values['audio_offset']}: the tokenizer renumbered its ids while loading, because "
                "they have gaps; use a base tokenizer without"
            )
        return vocabulary
