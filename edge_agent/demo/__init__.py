"""The quick start: drawn parts, a trained model, a running agent and a page to look at."""

SEED = 7  # of the demo when none is given
