"""Prepared records: their schema, how they are written from raw data, and how they are read."""
