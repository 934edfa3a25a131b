"""How good the models are: systems, metrics and results."""
