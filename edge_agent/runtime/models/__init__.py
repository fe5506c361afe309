"""A served model: desired and actual state, its inference units, the engine that serves it."""
