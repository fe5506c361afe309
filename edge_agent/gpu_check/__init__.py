"""Acceptance on a machine with an NVIDIA GPU: `scripts/gpu_check`."""
