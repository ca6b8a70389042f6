"""DynamiCrafter's published files: names, variants and stored schedules, in both directions."""

from smcd_jax.models.dynamicrafter.conversion.checkpoint import DynamiCrafterConversion

CONVERSION = DynamiCrafterConversion()
