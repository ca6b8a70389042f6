"""Metrics of generated videos, and the baselines they are compared with."""
