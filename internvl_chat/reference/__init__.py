"""Log-probs of the frozen reference: by a second model, or from a cache on disk."""
