"""Training: loss, step, state, optimiser, loop, and the checkpoints that it resumes from."""
