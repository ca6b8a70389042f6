"""Training configs of DynamiCrafter: fine-tuning, gates for boxes, low-rank adapters, and the small model."""
