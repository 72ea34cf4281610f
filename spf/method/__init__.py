"""The paper: pure tensor functions, one per equation. Imports torch and einops, nothing else of spf.

Beside it stand two extensions, which say that they are: hold.py and emphasis.py.
"""
