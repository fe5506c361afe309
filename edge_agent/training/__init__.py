"""Folders of images → a trained, calibrated model package."""
