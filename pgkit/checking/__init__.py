"""What `python -m pgkit.check_env` looks at, and how it says so."""
