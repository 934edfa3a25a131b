"""What a probe is to tell: the letters of a text, or one of several classes. B batch, N frames, C classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ....data.phonemes import PAUSES, spell_out
from ..metrics import word_counter

CHARACTERS = "abcdefghijklmnopqrstuvwxyz' "


class Letters:
    """The letters of a text, from every frame, by CTC (Graves et al., 2006); 0 is its blank.

    Errors are wrong words, counted after Whisper's normaliser.

    Raises:
        ImportError: jiwer is missing.
    """

    whole = False
    size = 1 + len(CHARACTERS)

    def __init__(self) -> None:
        self._count = word_counter()

    def encode(self, text: str) -> Tensor:
        """-> (S,) int64; numbers are spelt out, and what is no letter of English is dropped"""
        words = " ".join(part for part in spell_out(text) if part not in PAUSES)
        return torch.tensor([1 + CHARACTERS.index(c) for c in words if c in CHARACTERS], dtype=torch.long)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Logits (B, N, C), lengths (B,) -> (B,) nats per letter; 0 where the letters are more than the frames hold"""
        sizes = torch.tensor([len(target) for target in targets], device=logits.device)
        log_probabilities, letters = logits.log_softmax(-1).transpose(0, 1), torch.cat([*targets]).to(logits.device)
        return F.ctc_loss(log_probabilities, letters, lengths, sizes, reduction="none", zero_infinity=True) / sizes

    def answers(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """(B, N, C) -> the letters of the best path of each item"""
        rows = zip(logits.argmax(-1).cpu(), lengths.tolist(), strict=True)
        paths = [torch.unique_consecutive(row[:length]).tolist() for row, length in rows]
        return ["".join(CHARACTERS[i - 1] for i in path if i) for path in paths]

    def errors(self, truth: str, answer: str) -> tuple[int, int]:
        """-> wrong words, and all that were said"""
        return self._count(truth, answer)


class Classes:
    """One of several classes for the whole item; an error is another one.

    Args:
        names: of the classes.
    """

    whole = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.size = list(names), len(names)

    def encode(self, name: str) -> Tensor:
        """-> () int64"""
        return torch.tensor(self.names.index(name))

    def loss(self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Logits (B, C) -> (B,) nats"""
        return F.cross_entropy(logits, torch.stack([*targets]).to(logits.device), reduction="none")

    def answers(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """(B, C) -> the likeliest class of each item"""
        return [self.names[i] for i in logits.argmax(-1).tolist()]

    def errors(self, truth: str, answer: str) -> tuple[int, int]:
        """-> 1 if it is wrong, of 1"""
        return int(truth != answer), 1


Target = Letters | Classes
