"""Where records are kept: the port, and the stores that keep it."""
