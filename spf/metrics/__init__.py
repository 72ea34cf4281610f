"""Numbers about pairs of portraits from the same seed: one original, one customized."""
