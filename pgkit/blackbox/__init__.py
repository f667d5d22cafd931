"""Black-box optimisation: Gaussian search by the score function."""
