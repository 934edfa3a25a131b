"""Real speech of five languages to measure codecs on: the telephone prompts of Asterisk, one speaker each.

    apt-get install ffmpeg asterisk-core-sounds-{en,es,fr,it,ru} asterisk-core-sounds-{en,es,fr,it,ru}-g722
    python scripts/prompts.py OUT        # OUT/en/manifest.jsonl, ...
    focallm tables 2 --codecs mini codec2-700C --data OUT/en OUT/es OUT/fr OUT/it OUT/ru --scorers offline

Clips of 2 s and more that have a transcript without digits and without marks of tones. The speakers of en and es are
the same (Allison Smith). `mini` learnt from fr, it and ru: of these languages only en and es are new to it.
"""

import argparse
import gzip
import json
import re
import subprocess
from pathlib import Path

import soundfile

SOUNDS, TEXTS = Path("/usr/share/asterisk/sounds"), Path("/usr/share/doc")
SPEAKERS = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
SHORTEST_S = 2.0


def prompts(language: str, out: Path) -> list[dict]:
    """Decode one speaker's prompts to FLAC in `out`; -> manifest rows."""
    packed = (TEXTS / f"asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    rows = []
    for name, text in sorted(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(";")):
        source = SOUNDS / SPEAKERS[language] / f"{name}.g722"
        if re.search(r"[\[(<\d]", text) or not source.exists():
            continue
        path = out / f"{name.replace('/', '_')}.flac"
        if not path.exists():
            command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", source, "-ar", "16000", "-ac", "1", path]
            subprocess.run(command, check=True)
        seconds = round(soundfile.info(path).duration, 3)
        if seconds >= SHORTEST_S:
            rows.append({"id": path.stem, "audio": path.name, "text": text, "speaker": SPEAKERS[language],
                         "language": language, "seconds": seconds})  # fmt: skip
    return rows


def main() -> None:
    """Write OUT/LANGUAGE/manifest.jsonl for every language."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    for language in SPEAKERS:
        folder = arguments.parse_args().out / language
        folder.mkdir(parents=True, exist_ok=True)
        rows = prompts(language, folder)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
        print(f"{language}: {len(rows)} clips, {sum(row['seconds'] for row in rows) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
