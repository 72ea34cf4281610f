"""Taking a customization elsewhere: diffusers folder, single file in the original layout, delta, LoRA; and bringing one in."""
