"""Measures of generated videos: how they follow their boxes, how they look, how they move."""
