"""Raw data sets to records to batches: one record schema, one builder per data set, and what reads them."""
