"""Feature cache: latents and text embeddings, computed once, stored in shards and read as training examples."""
