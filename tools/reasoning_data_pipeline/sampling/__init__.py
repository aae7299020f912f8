"""From prompts to sampled answers: a pipeline is a way to ask."""
