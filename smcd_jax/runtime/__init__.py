"""The machine: devices and their limits, compilation cache, sharding, distributed start, FLOP counting and progress."""
