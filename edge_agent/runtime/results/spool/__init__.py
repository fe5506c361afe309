"""Events that wait on the device: on disk, and in memory until they are there."""
