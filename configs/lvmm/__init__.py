"""Training configs of LVMM at the sizes of the paper."""
