"""Clean speech made noisy, overlapping or pitch-shifted, and recordings published as mixtures."""
