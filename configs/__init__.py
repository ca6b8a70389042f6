"""Experiments, one `get_config()` file each, nothing but values; the training stages bring the first."""
