"""Rules that credit rewards to the actions that could have caused them."""
