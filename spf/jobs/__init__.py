"""Training as detached child processes whose state is on disk."""
