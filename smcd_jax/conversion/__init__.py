"""Conversion between PyTorch weights and model folders, for any model family."""
