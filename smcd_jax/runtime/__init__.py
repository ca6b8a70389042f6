"""The machine: devices, memory, compilation, sharding, distributed start, FLOP counting and progress."""
