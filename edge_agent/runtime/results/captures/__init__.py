"""Frames on disk: which, where, and the manifest that tells of them."""
