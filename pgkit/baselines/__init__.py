"""References that are subtracted from the signal: they move the variance of an estimate, and at best not its mean."""
