"""Training of the codec. `config.py` lists all settings, and `trainer.py` has the training loop."""
