"""Memory, arithmetic and communication of a training run, planned for devices that need not be present."""
