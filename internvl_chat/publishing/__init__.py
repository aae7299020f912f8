"""What leaves for a hub: which files, without what must not leave, under a card that says how they came about."""
