"""The critic, a process reward model (VisualPRM, arXiv 2503.10291): its conversations, packs, training and scores."""
