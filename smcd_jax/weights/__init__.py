"""Arrays on disk with checksums, PyTorch tensor files, and the engine that applies conversion tables."""
