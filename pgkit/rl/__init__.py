"""Reinforcement learning as a source of samples: environments, collection, and the way to factors."""
