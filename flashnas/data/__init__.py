"""Text to train on: corpora, splits, tokenizers and datasets."""
