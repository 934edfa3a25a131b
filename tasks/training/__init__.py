"""From token stores and recordings to trained models."""
