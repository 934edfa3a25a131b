"""The tables of the paper (arXiv 2502.04465), by the numbers they have there: published values beside measured ones."""

from .ablation import ablation_table

__all__ = ["ablation_table"]
