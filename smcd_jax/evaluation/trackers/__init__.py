"""Trackers and detectors that find the objects in a generated video."""
