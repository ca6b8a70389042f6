"""Order of training examples, as pure functions of seed, epoch and position."""
