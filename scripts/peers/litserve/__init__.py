"""LitServe: its configuration and server, which computes our work of a frame."""
