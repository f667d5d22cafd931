"""Corrections for data that another policy sampled."""
