"""Feature networks that metrics read, and the weight files they need."""
