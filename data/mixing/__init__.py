"""Clean speech made noisy, overlapping or disguised, and recordings published as mixtures."""
