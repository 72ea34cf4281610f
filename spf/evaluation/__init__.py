"""A test set through all methods and all metrics, and the tables and figures of the paper from it."""
