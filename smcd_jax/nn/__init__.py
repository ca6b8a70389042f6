"""Layers and networks that models share, in Flax Linen."""
