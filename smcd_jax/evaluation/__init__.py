"""Evaluation of generated videos: grounding, fidelity, motion and distances between sets of videos."""
