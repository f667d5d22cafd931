"""Environments as pure torch functions of states and actions, for pathwise gradients and for collection on a device."""
