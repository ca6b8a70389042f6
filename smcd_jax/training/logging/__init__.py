"""What a training run reports: metrics, TensorBoard events, throughput, gates and sample videos."""
