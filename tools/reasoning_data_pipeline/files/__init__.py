"""Files that ranks share: samples in shards, merged when all are there."""
