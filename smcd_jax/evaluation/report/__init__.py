"""Results of an evaluation: files, tables, strips and HTML pages."""
