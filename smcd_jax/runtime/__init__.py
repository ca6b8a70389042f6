"""Runtime utilities: devices, memory, compilation, sharding, distributed initialisation, FLOP counting and progress."""
