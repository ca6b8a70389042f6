"""Data pipeline from raw data sets to records to batches."""
