"""The agent commanded from afar."""
