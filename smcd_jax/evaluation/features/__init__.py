"""Feature networks of the metrics, and their weight files."""
