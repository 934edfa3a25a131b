"""FocalCodec (Della Libera et al., 2025, arXiv 2502.04465): config, parts, model, streaming and feature extractor.

The public names can be imported from `focallm.tokenizer`.
"""
