"""What answers: one protocol, an engine a file."""
