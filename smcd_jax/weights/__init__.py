"""Arrays on disk with checksums, tensor files of PyTorch, and the engine that applies conversion tables."""
