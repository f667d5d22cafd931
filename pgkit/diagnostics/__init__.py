"""Instruments: they read a snapshot when due, and change nothing."""
