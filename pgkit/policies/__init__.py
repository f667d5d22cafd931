"""Parameterised laws of actions given observations."""
