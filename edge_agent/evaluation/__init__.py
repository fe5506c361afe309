"""A packaged model over labelled images, through the runtime's own vision and backends."""
