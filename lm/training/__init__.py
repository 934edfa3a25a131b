"""Training of speech LMs.

Start reading at `trainer.train`, which calls everything else: `recipe` (what to train), `dataset` (rows of token stores
as examples), `trainer` (the Trainer), `loss`, `samples` (what is generated meanwhile) and `run_folder` (checkpoints and
records). `preview` describes a run to the user before the first update.
"""
