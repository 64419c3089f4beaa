"""What the commands other than `run` do."""
