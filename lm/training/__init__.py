"""Training of speech LMs.

Read it from `trainer.train`, which calls everything else: `recipe` (what to train), `dataset` (rows of token stores as
examples), `trainer` (the Trainer), `loss`, `samples` (what is generated meanwhile) and `run_folder` (checkpoints and
records). `preview` is what a user sees before the first update.
"""
