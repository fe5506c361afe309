"""Frames the agent kept: listed, and taken to S3."""
