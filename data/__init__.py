"""From recordings to token stores to batches.

`corpus` lists the utterances of a corpus, with `layouts` for corpora as they are published. `mixing` makes them noisy,
overlapping or pitch-shifted. `tokenization` encodes them into the `shards` of a `token_store`. `forced_alignment` finds
the frames of their `phonemes`. `batching` packs training examples into batches.
"""
