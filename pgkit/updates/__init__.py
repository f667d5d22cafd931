"""Ways to move a policy uphill; the one place where the sign flips."""
