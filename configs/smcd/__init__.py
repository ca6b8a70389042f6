"""Training configs of SMCD: one file for each stage and ablation of the paper."""
