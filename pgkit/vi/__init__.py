"""Variational inference: evidence bounds as expectations, and the gradients that only they have."""
