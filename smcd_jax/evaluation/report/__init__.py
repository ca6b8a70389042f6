"""Results of an evaluation: files, tables, strips and pages."""
