"""MLServer: its configuration, and the runtime that computes our work of a frame in it."""
