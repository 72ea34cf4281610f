"""From a request to a pair of portraits with their maps."""
