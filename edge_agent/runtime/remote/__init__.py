"""Remote commands."""
