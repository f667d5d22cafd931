"""The parts of `pgkit.verify`: which pairs there are, what was measured, and how it is told."""
