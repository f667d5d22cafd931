"""Networks that predict what is still to come."""
