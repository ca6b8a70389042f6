"""Output of a training run: metrics, TensorBoard events, throughput, gates and sample videos."""
