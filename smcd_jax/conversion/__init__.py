"""Conversion between PyTorch weights and model folders: one table per component, one strict engine."""
