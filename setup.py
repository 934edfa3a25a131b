"""The list of packages: `focallm`, and inside it every package of the folders beside it.

Everything else about the build is in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = ("tokenizer", "data", "lm", "tasks")


def list_packages() -> list[str]:
    """Names of all packages as they are installed, such as `focallm.lm.training`."""
    packages = ["focallm"]
    for folder in FOLDERS:
        # Only folders with an __init__.py count, which leaves weights and samples out.
        packages += [f"focallm.{name}" for name in find_packages(include=[folder, f"{folder}.*"])]
    return packages


if __name__ == "__main__":
    setup(packages=list_packages())
