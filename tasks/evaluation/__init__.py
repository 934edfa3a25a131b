"""Evaluation of codecs and language models: systems, metrics and results."""
