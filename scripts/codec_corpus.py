"""Build the corpus that the codec `mini` is trained on: synthetic Kokoro voices and three real ones from Debian.

    apt-get install ffmpeg asterisk-core-sounds-{fr,it,ru} asterisk-core-sounds-{fr,it,ru}-g722
    python scripts/codec_corpus.py KOKORO OUT                # KOKORO has a manifest.jsonl, OUT is an empty folder
    python scripts/codec_corpus.py KOKORO OUT --more MORE    # also use the output of scripts/more_voices.py

The Spanish prompts are left out, because their speaker is that of the English ones, which the codec is evaluated on.
Clips without words (tones, music) are left out, and so are the texts of clips with digits. Cyrillic letters are
converted to Latin ones, because the recognizer that is trained on these texts has one alphabet for all languages.
"""

import argparse
import hashlib
import json
import re
import unicodedata
from pathlib import Path

import soundfile
from asterisk_prompts import SPEAKERS, list_prompts

LICENSES = {"fr": "CC-BY-SA-3.0", "it": "CC-BY-3.0", "ru": "CC-BY-3.0"}
CREDITS = {"fr": "June Wallack", "it": "Carlo Flora", "ru": "Maxim Topal, ivrvoice.ru"}
CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
# The hard and the soft sign (ъ, ь) are not transliterated, hence the double spaces.
LATIN = "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh sh  y  e yu ya"
TO_LATIN = dict(zip(CYRILLIC, LATIN.split(" "), strict=True))


def decode_prompts(language: str, out: Path) -> list[dict]:
    """Decode the telephone prompts of one speaker to FLAC. Returns the rows of the manifest."""
    rows = []
    for prompt in list_prompts(language):
        path = prompt.decode(out / language)
        has_digits = re.search(r"\d", prompt.text)
        rows.append(
            {
                "id": f"{language}/{path.stem}",
                "audio": str(path.relative_to(out)),
                "text": "" if has_digits else to_latin(prompt.text),
                "speaker": SPEAKERS[language],
                "seconds": round(soundfile.info(path).duration, 3),
                "license": LICENSES[language],
                "source": f"Asterisk prompts, {CREDITS[language]}",
            }
        )
    return rows


def to_latin(text: str) -> str:
    """Convert a text to lower-case Latin letters without accents."""
    transliterated = ""
    for letter in unicodedata.normalize("NFC", text.lower()):
        transliterated += TO_LATIN.get(letter, letter)
    # In the decomposed form, accents are separate characters.
    decomposed = unicodedata.normalize("NFKD", transliterated)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def read_rows(corpus: Path, columns: dict, prefix: str = "") -> list[dict]:
    """Read the manifest of a corpus. Returns its rows with absolute paths, additional columns and prefixed ids."""
    rows = []
    for line in (corpus / "manifest.jsonl").open():
        row = json.loads(line)
        audio = str((corpus / row["audio"]).resolve())
        rows.append({**row, **columns, "id": prefix + row["id"], "audio": audio})
    return rows


def main() -> None:
    """Write OUT/manifest.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kokoro", type=Path, help="corpus of synthetic speech by Kokoro")
    parser.add_argument("out", type=Path, help="folder of the new corpus")
    parser.add_argument("--more", type=Path, help="another corpus of synthetic speech, whose rows have a source")
    options = parser.parse_args()
    rows = read_rows(options.kokoro, {"license": "Apache-2.0", "source": "Kokoro-82M, synthesised"}, "kokoro/")
    if options.more:
        rows += read_rows(options.more, {"license": "synthesised"})
    for language in LICENSES:
        rows += decode_prompts(language, options.out)
    # The last rows are used for validation. Sorting by a hash makes them a random sample.
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    with (options.out / "manifest.jsonl").open("w") as manifest:
        for row in rows:
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
    hours = sum(row["seconds"] for row in rows) / 3600
    print(f"{len(rows)} utterances, {hours:.2f} h")


if __name__ == "__main__":
    main()
