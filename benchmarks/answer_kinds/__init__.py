"""Kinds of gold answers, drawn at random: each with spellings that are right and changes that are wrong."""
