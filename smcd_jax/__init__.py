"""SMCD in JAX: a still picture, a prompt and tracks of labelled boxes become a short video (ECCV 2024)."""

__version__ = "0.1.0"
