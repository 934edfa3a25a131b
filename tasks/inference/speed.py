"""Speak faster or slower: divide the durations of phonemes by the speed. N frames, K codebooks."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SpeedChange:
    """Changes the speed of aligned speech while it is generated.

    The model writes at its own pace. Each unit, a phoneme or a pause, then gets as many frames as its own divided by
    the speed, but at least one, spread evenly over its frames: some come twice, or are left out. So pitch and
    phonemes stay, whatever the speed.

    The model itself does not speak at any pace: scaling the lengths that it chooses changed durations by a factor of
    0.83 at speed 2 and 1.64 at speed 0.5, and frames that it writes for given lengths are harder to understand
    (docs/tasks.md).

    Args:
        speed: 2 is twice as fast.
        num_codebooks: K.
    """

    def __init__(self, speed: float, num_codebooks: int) -> None:
        self._speed = speed
        self._num_codebooks = num_codebooks
        self._codes: list[int] = []  # of units that have not ended
        self._exact_end = 0.0  # where the units should end, in frames
        self._end = 0  # and where they do

    def push(self, codes: Sequence[int], unit_lengths: Sequence[int]) -> tuple[list[int], list[int]]:
        """Add codes, and return those of the units that have ended, with the lengths of these.

        Args:
            codes: any number.
            unit_lengths: number of codes of each unit that has ended since the previous call.
        """
        K = self._num_codebooks
        self._codes += codes
        spoken: list[int] = []
        spoken_lengths = []
        start = 0
        for length in unit_lengths:
            num_frames = length // K
            self._exact_end += num_frames / self._speed
            # Rounding where units end, not how long they are, keeps the errors from adding up.
            num_spoken = max(1, round(self._exact_end - self._end))
            self._end += num_spoken
            for i in range(num_spoken):
                frame = start + K * int((i + 0.5) * num_frames / num_spoken)
                spoken += self._codes[frame : frame + K]
            spoken_lengths.append(K * num_spoken)
            start += length
        self._codes = self._codes[start:]
        return spoken, spoken_lengths


def change_speed(
    codes: Tensor, unit_lengths: Sequence[int], speed: float, num_codebooks: int
) -> tuple[Tensor, Sequence[int]]:
    """Return the codes (N * K,) of aligned speech at another speed, and the number of codes of each unit.

    At speed 1, they are unchanged; speech that is not aligned has no other speed.
    """
    if speed == 1:
        return codes, unit_lengths
    spoken, spoken_lengths = SpeedChange(speed, num_codebooks).push(codes.tolist(), unit_lengths)
    return torch.tensor(spoken), spoken_lengths
