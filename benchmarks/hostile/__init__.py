"""The parts of `hostile_inputs.py`: cases by kind, the entry points they go through, and the watch over each."""
