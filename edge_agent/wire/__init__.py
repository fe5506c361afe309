"""Stubs generated from protos/ by scripts/protos; never edited."""
