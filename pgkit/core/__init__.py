"""Floor 1: pure functions of tensors, and the pieces of networks; no configuration, no state that outlives a call."""
