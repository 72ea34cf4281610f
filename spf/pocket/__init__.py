"""The embedded picture world and the small models trained on it."""
