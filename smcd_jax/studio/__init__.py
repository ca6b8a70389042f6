"""The studio: a local web page and an HTTP API on top of the pipeline, with a queue of jobs and a folder of results."""
