"""Inference: one module for each task, with one public function of the same name.

Nothing here imports training code, so that a user who only runs a model does not load the Trainer and its libraries.
"""
