"""Where the weights are that come with the package."""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"
# Their folders, by name.
PACKAGED_MODELS = {"mini": _WEIGHTS / "mini", "mini-rewriting": _WEIGHTS / "mini-rewriting"}
