"""Off-policy evaluation: logged data in, values of a policy with their intervals out."""
