"""Training checkpoints: saved in the background, verified by checksum, restored onto any mesh."""
