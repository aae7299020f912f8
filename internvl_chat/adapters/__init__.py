"""Low-rank adapters (LoRA), also on a language model in 4 bits (QLoRA)."""
