"""What waits on the device: on disk, and in memory until it is there."""
