"""From answers to pairs, restartable and flat in memory."""
