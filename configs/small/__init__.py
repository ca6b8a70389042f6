"""Training configs of the small model of the world with photographs, shadows and up to three objects."""
