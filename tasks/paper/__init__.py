"""The ten tables of the FocalCodec paper (arXiv 2502.04465): published rows beside rows that are measured here."""
