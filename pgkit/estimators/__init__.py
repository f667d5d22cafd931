"""Rules that turn signals and baselines into detached coefficients of the scores."""
