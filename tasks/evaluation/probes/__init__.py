"""Probes, the paper's discriminative tasks: what a codec's codes keep of what is said, by whom and in what mood."""

from .probing import probe

__all__ = ["probe"]
