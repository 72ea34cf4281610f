"""The paper and nothing else: pure tensor functions, one per equation. Imports torch and einops, nothing from spf."""
