"""Checkpoints that other tools load, and what a run goes on from."""
