"""Speak a text with an exported model: python speak.py "Good morning." speech.wav

Needs only numpy and onnxruntime. `focallm export onnx` writes this program beside the graphs.
"""

import argparse
import json
import re
import unicodedata
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PAUSES = {",": ",", ";": ",", ":": ",", ".": ".", "!": ".", "?": "?"}
ABBREVIATION = r"\b(?:[^\W\d_]\.[^\W\d_]\b|(?:dr|mr|mrs|ms|prof|st|jr|sr|vs|etc)\.)"


class Speaker:
    """A language model and the decoder of its codec, from an exported folder."""

    def __init__(self, folder: Path) -> None:
        info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if info.get("speech") is None:
            raise ValueError(f"{folder} holds no voice: export a model of aligned speech, such as mini")
        self.lm = info["lm"]
        self.speech = info["speech"]
        self.codec = info["codec"]
        self.lexicon = json.loads((folder / "lexicon.json").read_text(encoding="utf-8"))
        self.prefill = onnxruntime.InferenceSession(folder / "prefill.onnx")
        self.decode_step = onnxruntime.InferenceSession(folder / "decode_step.onnx")
        self.decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")

    def speak(self, text: str, voice: str | None = None) -> np.ndarray:
        """Return samples (T,) in [-1, 1] at `codec["output_sampling_rate"]`."""
        voice = voice or next(iter(self.speech["voices"]))
        if voice not in self.speech["voices"]:
            raise ValueError(f"no voice is called {voice!r}, only {', '.join(self.speech['voices'])}")
        codes: list[int] = []
        for units in self.pieces(self.units(text)):
            codes += self.generate(units, voice)
        inputs: dict[str, Any] = {"codes": np.array(codes, np.int64)}
        for tensor in self.codec["decoder"]["state"]:
            inputs[tensor["name"]] = np.zeros(tensor["shape"], tensor["dtype"])
        return self.decoder.run(None, inputs)[0]

    def units(self, text: str) -> list[str]:
        """Split a text into phonemes and pauses."""
        text = text.lower().replace("’", "'")
        if found := re.search(ABBREVIATION, text):
            raise ValueError(f"found the abbreviation {found[0]!r}: write it in words")
        units = ["▁"]
        for part in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|[,;:.!?]|\S", text):
            if part not in PAUSES:
                units += re.findall("▁?ˈ?[^▁ˈ]", f"▁{self.pronounce(part)}")
            elif len(units) > 1 and units[-1] not in PAUSES:
                units.append(PAUSES[part])
        if len(units) == 1:
            raise ValueError(f"there is no word in {text[:100]!r}: at least one is needed")
        return units if units[-1] in PAUSES else [*units, "."]

    def pronounce(self, word: str) -> str:
        """Look up a word. Punctuation is silent, and numbers are for the caller to write in words."""
        if word in self.lexicon:
            return self.lexicon[word]
        if word.isnumeric():
            raise ValueError(f"found the digit {word}: write numbers in words")
        if word[0].isalpha():
            raise ValueError(f"the lexicon lacks {word!r}: write it in words that it has, or add it to lexicon.json")
        if word in "&@#%*/\\" or unicodedata.category(word)[0] == "S":
            raise ValueError(f"found the sign {word}: write it in words")
        return ""

    def pieces(self, units: list[str]) -> Iterator[list[str]]:
        """Split a long text after a pause or, where there is none, before a word."""
        size = self.speech["max_units"]
        while len(units) > size:
            ends = [i + 1 for i in range(1, size) if units[i] in PAUSES]
            ends = ends or [i for i in range(2, size + 1) if units[i].startswith("▁")] or [size]
            yield units[: ends[-1]]
            units = ["▁", *units[ends[-1] :]]
        yield units

    def generate(self, units: list[str], voice: str) -> list[int]:
        """Write the codes of a piece. The model reads each unit one span before the codes of that unit."""
        spelled = [self.speech["units"][unit] for unit in units]
        min_frames, max_frames = self.speech["frames_of_unit"]
        prompt = [*self.speech["voices"][voice], *spelled[0], *spelled[1]]
        openings = [*spelled[2:], [self.speech["next"]], []]
        capacity = len(prompt) + len(units) * (max_frames + max(map(len, spelled)))
        self.cache = np.empty((capacity, *self.lm["cache_shape"]), np.float32)
        self.length = 0
        logits = self.read(prompt)
        first = self.speech["first_code"]
        size = self.codec["codebook_size"]
        powers = 1 << np.arange(size.bit_length() - 1)
        bit_table = np.sign(np.arange(size)[:, None] & powers).astype(np.float64)
        codes: list[int] = []
        for i, opening in enumerate(openings):
            closing = self.speech["next" if i < len(units) - 1 else "end"]
            survival = 1.0  # the probability that the unit is still open; its median length is where that is 0.5
            for frame in range(max_frames):
                weights = np.exp(logits - logits.max(), dtype=np.float64)
                code_weights = weights[first : first + size]
                total = code_weights.sum()
                if frame >= min_frames:
                    survival *= total / (total + weights[closing])
                if survival < 0.5:
                    break
                # Each bit takes the value that holds more of the probability.
                codes.append(int(((code_weights @ bit_table > total / 2) * powers).sum()))
                logits = self.read([first + codes[-1]])
            for unit_id in opening:
                logits = self.read([unit_id])
        return codes

    def read(self, ids: list[int]) -> np.ndarray:
        """Let the model read ids, and return the logits (V,) of what follows."""
        graph = self.decode_step if len(ids) == 1 else self.prefill
        inputs = {"ids": np.array(ids, np.int64), "cache": self.cache[: self.length]}
        logits, self.cache[self.length : self.length + len(ids)] = graph.run(None, inputs)
        self.length += len(ids)
        return logits


def main() -> None:
    """Parse the command line, and write a WAV file of 16 bits."""
    parser = argparse.ArgumentParser(description="Speak a text with an exported model.")
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    parser.add_argument("--voice")
    arguments = parser.parse_args()
    try:
        speaker = Speaker(Path(__file__).parent)
        samples = speaker.speak(arguments.text, arguments.voice)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    with wave.open(str(arguments.out), "wb") as file:
        file.setparams((1, 2, speaker.codec["output_sampling_rate"], 0, "NONE", ""))
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
