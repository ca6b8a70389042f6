"""The model families, and the interface through which everything else uses them."""
