"""The only place that names the model classes of diffusers and transformers (with baselines, export and pocket)."""
