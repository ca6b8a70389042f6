"""SMCD's published weights: names, sizes and files, in both directions."""

from smcd_jax.models.smcd.conversion.layouts import SMCDConversion

CONVERSION = SMCDConversion()
