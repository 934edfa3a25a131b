"""Build corpora of real speech in five languages from the telephone prompts of Asterisk, to evaluate codecs on.

    apt-get install ffmpeg asterisk-core-sounds-{en,es,fr,it,ru} asterisk-core-sounds-{en,es,fr,it,ru}-g722
    python scripts/asterisk_prompts.py OUT        # writes OUT/en/manifest.jsonl and so on
    focallm tables 2 --codecs mini codec2-700C --data OUT/en OUT/es OUT/fr OUT/it OUT/ru --scorers offline

Each language has one speaker; English and Spanish have the same (Allison Smith). The corpora contain clips of at least
2 s whose transcript has no digits and no marks of tones. The codec `mini` was trained on the French, Italian and
Russian prompts, so only English and Spanish are unseen.
"""

import argparse
import gzip
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import soundfile

SOUNDS = Path("/usr/share/asterisk/sounds")
TRANSCRIPTS = Path("/usr/share/doc")
SPEAKERS = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
MIN_SECONDS = 2.0
SAMPLING_RATE = 16000


@dataclass(frozen=True)
class Prompt:
    """A telephone prompt: its name, transcript and G.722 file."""

    name: str
    text: str
    source: Path

    def decode(self, folder: Path) -> Path:
        """Decode the prompt to FLAC, unless that was done before. Returns the path."""
        path = folder / f"{self.name.replace('/', '_')}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(self.source)]
            command += ["-ar", str(SAMPLING_RATE), "-ac", "1", str(path)]
            subprocess.run(command, check=True)
        return path


def list_prompts(language: str) -> list[Prompt]:
    """List the prompts of a language that contain words only, sorted by name."""
    packed = TRANSCRIPTS / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    prompts = []
    for line in gzip.decompress(packed.read_bytes()).decode().split("\n"):
        name, separator, text = line.partition(": ")
        source = SOUNDS / SPEAKERS[language] / f"{name}.g722"
        # Brackets mark tones, music and other sounds; a semicolon starts a comment.
        is_speech = separator and not line.startswith(";") and not re.search(r"[\[(<]", text)
        if is_speech and source.exists():
            prompts.append(Prompt(name, text, source))
    return sorted(prompts, key=lambda prompt: (prompt.name, prompt.text))


def build_corpus(language: str, folder: Path) -> list[dict]:
    """Decode the prompts of a language into a folder. Returns the rows of its manifest."""
    rows = []
    for prompt in list_prompts(language):
        if re.search(r"\d", prompt.text):
            continue
        path = prompt.decode(folder)
        seconds = round(soundfile.info(path).duration, 3)
        if seconds >= MIN_SECONDS:
            rows.append(
                {
                    "id": path.stem,
                    "audio": path.name,
                    "text": prompt.text,
                    "speaker": SPEAKERS[language],
                    "language": language,
                    "seconds": seconds,
                }
            )
    return rows


def main() -> None:
    """Write OUT/LANGUAGE/manifest.jsonl for every language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the corpora")
    options = parser.parse_args()
    for language in SPEAKERS:
        folder = options.out / language
        folder.mkdir(parents=True, exist_ok=True)
        rows = build_corpus(language, folder)
        with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
            for row in rows:
                manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
        minutes = sum(row["seconds"] for row in rows) / 60
        print(f"{language}: {len(rows)} clips, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
