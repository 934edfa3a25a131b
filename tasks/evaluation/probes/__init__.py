"""Probes, the discriminative tasks of the paper: words, speakers and emotions, told from a codec's tokens."""
