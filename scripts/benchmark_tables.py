"""Write the tables of README.md and docs/speed.md from the records in benchmarks/.

    python scripts/benchmark_tables.py

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`, where NAME is that of the record `benchmarks/NAME.json`.
"""

import argparse
import json
import re
from pathlib import Path

from focallm.tasks.benchmarks.record import markdown_table

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")


def with_tables(text: str) -> str:
    """Replace what stands between the markers of a page.

    Raises:
        OSError: There is no record of the name in a marker.
    """

    def table(match: re.Match[str]) -> str:
        name = match[1]
        record = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
        return f"<!-- {name} -->\n\n{markdown_table(record)}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end \1 -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
