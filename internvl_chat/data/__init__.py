"""From rows to batches: images, videos, tokens, the mixture and the order in which its rows are used."""
