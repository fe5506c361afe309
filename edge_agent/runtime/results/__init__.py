"""Where verdicts go besides the answer: kept on disk, delivered, never lost on the way."""
