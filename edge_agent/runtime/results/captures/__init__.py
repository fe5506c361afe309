"""Captured frames on disk: which, where, and their manifest."""
