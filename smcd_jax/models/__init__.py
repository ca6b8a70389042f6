"""The networks; with them alone, flax.linen."""
