"""Published files of LVMM and LFDM: names and layouts, in both directions."""
