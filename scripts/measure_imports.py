#!/usr/bin/env python3
"""Measure what imports and `focallm --help` cost, beside torch, in fresh processes.

    python scripts/measure_imports.py [--rounds 5]

Prints the median CPU and wall seconds of each command. The commands take turns, so that all see the same load.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python alone": "pass",
    "import focallm": "import focallm",
    "focallm --help": "import sys; sys.argv = ['focallm', '--help']; from focallm.tasks.cli import main; main()",
    "import focallm.tokenizer": "import focallm.tokenizer",
    "import torch": "import torch",
    "AudioTokenizer": "from focallm.tokenizer import AudioTokenizer",
    "speak": "from focallm import speak",
}


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5, help="processes for each command")
    rounds = arguments.parse_args().rounds

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    # The first round fills the file cache and does not count.
    for i in range(rounds + 1):
        for name, code in COMMANDS.items():
            measured = run_once(code)
            if i > 0:
                seconds[name].append(measured)

    print(f"{'command':26} {'CPU s':>6} {'wall s':>7}   (medians of {rounds})")
    for name, pairs in seconds.items():
        cpu = statistics.median(pair[0] for pair in pairs)
        wall = statistics.median(pair[1] for pair in pairs)
        print(f"{name:26} {cpu:6.2f} {wall:7.2f}")


def run_once(code: str) -> tuple[float, float]:
    """Run Python code in a new process and return its CPU and wall seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


if __name__ == "__main__":
    main()
