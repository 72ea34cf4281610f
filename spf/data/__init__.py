"""Training sets: folders of pictures with a base text and a target text each. Read, checked, written, put in order."""
