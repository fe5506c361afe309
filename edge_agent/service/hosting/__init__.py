"""Models that answer DetectAnomalies, each in a runtime process of its own."""
