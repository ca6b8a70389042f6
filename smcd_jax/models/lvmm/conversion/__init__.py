"""Conversion of the published files of LVMM and LFDM, in both directions."""
