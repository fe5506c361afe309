"""Which engine serves a package here: the plan, the cache and the building of engines."""
