"""The shared-prefix layout: prompt and image run once for all answers, attention over it, log-probs of answers."""
