"""CUDA through one narrow layer: the driver API, by whichever Python package is there."""
