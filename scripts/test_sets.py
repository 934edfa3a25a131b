"""What `mini` is measured on: recordings that nothing learns from, and noise that is kept from training.

    python scripts/test_sets.py HELDOUT REAL NOISE OUT

HELDOUT: a folder with manifest.jsonl, voices that no training set holds; REAL: the same of a real voice; NOISE:
recordings of noise. OUT/mixed: 50 utterances of each, chosen by their names; OUT/noise/train and OUT/noise/test: links,
the longest recording and every fifth of those below a minute to test.
"""

import argparse
import hashlib
import json
from pathlib import Path

import soundfile

EACH = 50


def chosen(folder: Path) -> list[dict]:
    """`EACH` rows of a manifest, by a hash of their names."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open()]
    rows.sort(key=lambda row: hashlib.sha256(str(row["id"]).encode()).hexdigest())
    return [
        {**row, "id": f"{folder.name}/{row['id']}", "audio": str((folder / row["audio"]).resolve())}
        for row in rows[:EACH]
    ]


def split_noise(folder: Path, out: Path) -> None:
    """Links to the recordings on both sides."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".opus", ".ogg", ".flac", ".wav"))
    seconds = {path: soundfile.info(path).duration for path in files}
    test = {max(files, key=seconds.__getitem__), *[path for path in files if seconds[path] < 60][::5]}
    for path in files:
        link = out / ("test" if path in test else "train") / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


def main() -> None:
    """Write the lists and the links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("heldout", "real", "noise", "out"):
        parser.add_argument(name, type=Path)
    folders = parser.parse_args()
    rows = chosen(folders.heldout) + chosen(folders.real)
    (folders.out / "mixed").mkdir(parents=True, exist_ok=True)
    (folders.out / "mixed" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split_noise(folders.noise, folders.out / "noise")


if __name__ == "__main__":
    main()
