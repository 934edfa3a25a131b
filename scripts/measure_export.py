"""Compare exported models of a voice with the model that they come from.

    focallm export onnx mini float32
    focallm export onnx mini int8 --dtype int8
    python scripts/measure_export.py float32 int8

Prints for each folder how many sentences have the same codes, the largest difference of their samples, the errors of a
recognizer (Whisper base), the share of equal codes of recordings of 20 lengths, and the time beside that of focallm, on
one thread. All programs speak each sentence in turn, so that other load on the machine affects all equally.
"""

import argparse
import importlib.util
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from focallm.lm import SpeechLM
from focallm.tasks import speak
from focallm.tasks.demo import OTHER_SPEAKER, SAMPLE
from focallm.tasks.evaluation.metrics.asr import BUNDLED_ASR, load_asr
from focallm.tasks.evaluation.metrics.words import word_counter
from focallm.tokenizer import read_audio

SENTENCES = """
Good morning, everyone.
The quick brown fox jumps over the lazy dog.
Please call me when you arrive at the station.
It rained all night, but the sun is shining now.
She opened the window and looked at the garden.
How much does this cost?
We walked along the river until it was dark.
Never give up!
The meeting starts at nine and ends before lunch.
He bought bread, milk, cheese and a bottle of wine.
Music is the universal language of mankind.
Yes.
I don't know what you're talking about, and neither does he.
A journey of a thousand miles begins with a single step.
The old man sat quietly by the fire; his dog slept at his feet.
Winter came early that year, and the lake froze before the end of November.
Could you repeat the last sentence, please?
All human beings are born free and equal in dignity and rights.
The train to the mountains leaves from platform seven every hour, and it takes about three hours to the last village.
Thank you for listening to this little voice, which runs without any network at all.
""".strip().splitlines()
LENGTHS = [
    1, 5, 159, 160, 320, 321, 1000, 4000, 16000, 16001, 24000, 31999, 40000, 48000, 64000, 80000, 96001, 128000, 150000,
    240000,
]  # fmt: skip  # in samples


class Folder:
    """An exported folder and what was measured of it."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("exported_speak", path / "speak.py")
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        self.name = path.name
        self.speaker = program.Speaker(path)
        self.encoder = onnxruntime.InferenceSession(path / "encoder.onnx")
        self.same = 0
        self.difference = 0.0
        self.ratios: list[float] = []
        self.audios: list[np.ndarray] = []

    def speak(self, sentence: str, expected: object, seconds: float) -> None:
        """Speak a sentence, and compare with what focallm spoke in `seconds`."""
        start = time.perf_counter()
        audio = self.speaker.speak(sentence)
        self.ratios.append(seconds / (time.perf_counter() - start))
        self.audios.append(audio)
        # The codes of a sentence are the same if its samples nearly are.
        if audio.shape == expected.audio.shape:
            difference = float(np.abs(audio - expected.audio).max())
            if difference < 1e-3:
                self.same += 1
                self.difference = max(self.difference, difference)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    onnxruntime.InferenceSession = on_one_thread(onnxruntime.InferenceSession)
    folders = [Folder(path) for path in arguments.folders]
    lm = SpeechLM.from_pretrained("mini")
    audios = []
    for sentence in SENTENCES:
        start = time.perf_counter()
        result = speak(sentence, lm)
        seconds = time.perf_counter() - start
        audios.append(result.audio)
        for folder in folders:
            folder.speak(sentence, result, seconds)

    print(f"{len(SENTENCES)} sentences, {sum(map(len, audios)) / 16000:.0f} s; {len(LENGTHS)} recordings")
    print("| | same codes | largest difference | WER, % | codes of recordings | faster than focallm |")
    print("|---|---|---|---|---|---|")
    print(f"| focallm | | | {error_rate(audios):.1f} | | |")
    recordings = cut_recordings(np.concatenate([read_audio(SAMPLE)[0], read_audio(OTHER_SPEAKER)[0], *audios]))
    for folder in folders:
        equal = 0
        total = 0
        for samples in recordings:
            codes = lm.audio_tokenizer.codec.encode(torch.from_numpy(samples)[None]).audio_codes[0, 0].numpy()
            equal += int((folder.encoder.run(None, {"samples": samples})[0] == codes).sum())
            total += len(codes)
        print(
            f"| {folder.name} | {folder.same} | {folder.difference:.1e} | {error_rate(folder.audios):.1f} | "
            f"{equal} of {total} | {statistics.median(folder.ratios):.2f} |"
        )


def on_one_thread(session_class: type) -> object:
    """Make sessions as `session_class` does, with one thread each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return lambda path: session_class(path, options)


def cut_recordings(audio: np.ndarray) -> list[np.ndarray]:
    """Cut recordings of all lengths at random places."""
    rng = np.random.default_rng(0)
    recordings = []
    for length in LENGTHS:
        start = int(rng.integers(len(audio) - length))
        recordings.append(audio[start : start + length])
    return recordings


def error_rate(audios: list[np.ndarray]) -> float:
    """Return the word error rate of the sentences in percent."""
    asr = load_asr(BUNDLED_ASR)
    count = word_counter(spellings=asr.spellings)
    errors = 0
    words = 0
    for sentence, audio in zip(SENTENCES, audios, strict=True):
        sentence_errors, sentence_words = count(sentence, asr(audio, 16000))
        errors += sentence_errors
        words += sentence_words
    return 100 * errors / words


if __name__ == "__main__":
    main()
