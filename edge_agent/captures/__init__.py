"""Frames that the agent captured: listed, uploaded to S3."""
