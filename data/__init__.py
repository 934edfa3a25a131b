"""Audio in, training examples out: corpora, token stores, batches."""
