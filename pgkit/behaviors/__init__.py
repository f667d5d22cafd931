"""Policies that collect experience, on purpose or because they learn."""
