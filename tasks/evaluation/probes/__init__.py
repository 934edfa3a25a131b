"""Probes, the discriminative tasks of the paper: predict words, speakers and emotions from a codec's tokens."""
