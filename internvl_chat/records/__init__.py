"""Rows, mixtures and files as they lie on disk: what a JSON line and a meta.json may say. No torch."""
