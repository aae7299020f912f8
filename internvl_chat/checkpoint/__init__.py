"""Checkpoints that other tools load, and what a run continues from."""
