"""The program `focallm`: parses arguments and calls the package."""

from .commands import main

__all__ = ["main"]
