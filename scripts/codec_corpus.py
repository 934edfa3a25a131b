"""The speech that mini.yaml learns from, as one manifest: Kokoro's synthetic voices and three real ones from Debian.

    apt-get install ffmpeg asterisk-core-sounds-{fr,it,ru} asterisk-core-sounds-{fr,it,ru}-g722
    python scripts/codec_corpus.py KOKORO OUT        # KOKORO: a folder with manifest.jsonl, OUT: an empty folder
    python scripts/codec_corpus.py KOKORO OUT --more MORE    # and what scripts/more_voices.py made

The Spanish prompts are left out: their speaker is that of the English ones, on which the codec is measured. Clips
without words (tones, music) are left out, and of texts with digits only the sound is used. Cyrillic letters become
Latin ones: the recogniser that learns from these texts writes letters of one alphabet, for all languages.
"""

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import unicodedata
from pathlib import Path

import soundfile

SOUNDS, TEXTS = Path("/usr/share/asterisk/sounds"), Path("/usr/share/doc")
SPEAKERS = {"fr": "fr_CA_f_June", "it": "it_IT_m_Carlo", "ru": "ru_RU_f_IvrvoiceRU"}
LICENCES = {"fr": "CC-BY-SA-3.0", "it": "CC-BY-3.0", "ru": "CC-BY-3.0"}
CREDITS = {"fr": "June Wallack", "it": "Carlo Flora", "ru": "Maxim Topal, ivrvoice.ru"}
LATIN = dict(
    zip(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
        "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh sh * y * e yu ya".replace("*", "").split(" "),
        strict=True,
    )
)


def debian_prompts(language: str, out: Path) -> list[dict]:
    """Decode one speaker's prompts to FLAC; -> manifest rows."""
    packed = (TEXTS / f"asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    rows = []
    for name, text in sorted(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(";")):
        source = SOUNDS / SPEAKERS[language] / f"{name}.g722"
        if re.search(r"[\[(<]", text) or not source.exists():
            continue
        path = out / language / f"{name.replace('/', '_')}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", source, "-ar", "16000", "-ac", "1", path]
            subprocess.run(command, check=True)
        seconds = round(soundfile.info(path).duration, 3)
        text = "" if re.search(r"\d", text) else latin(text)
        rows.append({"id": f"{language}/{path.stem}", "audio": str(path.relative_to(out)), "text": text,
                     "speaker": SPEAKERS[language], "seconds": seconds, "licence": LICENCES[language],
                     "source": f"Asterisk prompts, {CREDITS[language]}"})  # fmt: skip
    return rows


def latin(text: str) -> str:
    """Letters without accents, in the Latin alphabet."""
    text = "".join(LATIN.get(letter, letter) for letter in unicodedata.normalize("NFC", text.lower()))
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def synthesised(corpus: Path, about: dict, prefix: str = "") -> list[dict]:
    """A corpus where it stands; -> manifest rows"""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").open()]
    return [{**row, **about, "id": prefix + row["id"], "audio": str((corpus / row["audio"]).resolve())} for row in rows]


def main() -> None:
    """Write OUT/manifest.jsonl, in the order of a hash, so that the last rows, which validate, are of all kinds."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kokoro", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--more", type=Path, help="another corpus of synthesised speech, which names its sources")
    options = arguments.parse_args()
    rows = synthesised(options.kokoro, {"licence": "Apache-2.0", "source": "Kokoro-82M, synthesised"}, "kokoro/")
    rows += synthesised(options.more, {"licence": "synthesised"}) if options.more else []
    for language in SPEAKERS:
        rows += debian_prompts(language, options.out)
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} utterances, {sum(row['seconds'] for row in rows) / 3600:.2f} h")


if __name__ == "__main__":
    main()
