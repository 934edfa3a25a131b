"""Build the sets that `mini` is evaluated on, and separate their noise from that of the training.

    python scripts/evaluation_sets.py UNSEEN REAL NOISE OUT

UNSEEN is a corpus with a manifest.jsonl, of voices that are in no training set. REAL is a corpus of a real voice. NOISE
is a folder of noise recordings. OUT/mixed lists 50 utterances of each corpus, chosen by a hash of their ids.
OUT/noise/test contains links to the longest noise recording and to every fifth of those that are shorter than a minute;
OUT/noise/train contains links to all others.
"""

import argparse
import hashlib
import json
from pathlib import Path

import soundfile

UTTERANCES_PER_CORPUS = 50
NOISE_SUFFIXES = (".opus", ".ogg", ".flac", ".wav")
SHORT_SECONDS = 60
TEST_EVERY = 5


def choose_rows(corpus: Path) -> list[dict]:
    """Choose utterances of a corpus by a hash of their ids. Returns manifest rows with absolute paths."""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").open()]
    rows.sort(key=lambda row: hashlib.sha256(str(row["id"]).encode()).hexdigest())
    chosen = []
    for row in rows[:UTTERANCES_PER_CORPUS]:
        audio = str((corpus / row["audio"]).resolve())
        chosen.append({**row, "id": f"{corpus.name}/{row['id']}", "audio": audio})
    return chosen


def split_noise(folder: Path, out: Path) -> None:
    """Link each recording of a folder in OUT/train or OUT/test."""
    seconds = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in NOISE_SUFFIXES:
            seconds[path] = soundfile.info(path).duration
    short = [path for path in seconds if seconds[path] < SHORT_SECONDS]
    longest = max(seconds, key=seconds.__getitem__)
    test = {longest, *short[::TEST_EVERY]}
    for path in seconds:
        link = out / ("test" if path in test else "train") / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


def main() -> None:
    """Write OUT/mixed/manifest.jsonl and the links in OUT/noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unseen", type=Path, help="corpus of voices that are in no training set")
    parser.add_argument("real", type=Path, help="corpus of a real voice")
    parser.add_argument("noise", type=Path, help="folder of noise recordings")
    parser.add_argument("out", type=Path, help="folder of the evaluation sets")
    options = parser.parse_args()
    rows = choose_rows(options.unseen) + choose_rows(options.real)
    (options.out / "mixed").mkdir(parents=True, exist_ok=True)
    with (options.out / "mixed" / "manifest.jsonl").open("w") as manifest:
        for row in rows:
            manifest.write(json.dumps(row) + "\n")
    split_noise(options.noise, options.out / "noise")


if __name__ == "__main__":
    main()
