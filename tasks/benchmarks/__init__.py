"""Measure the speed of a codec, a language model and a server on this machine."""
