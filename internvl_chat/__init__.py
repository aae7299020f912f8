"""InternVL preference optimization: models, data and training. Knows nothing of slurm, lmdeploy or where files live."""

__version__ = "0.1.0"
