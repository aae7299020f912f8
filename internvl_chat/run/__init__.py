"""A training run: its processes, its loop, what it logs, guards and writes down."""
