"""Training of the codec. `config.py` says what can be set, `trainer.py` shows a training step from top to bottom."""
