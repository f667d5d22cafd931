"""Where the metrics of an update are written."""
