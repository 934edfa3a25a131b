"""Measure the speed of a codec and of a language model on this machine."""
