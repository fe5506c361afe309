"""Open edge inference runtime for visual inspection."""

__version__ = "1.3.0"
