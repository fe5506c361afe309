"""anomalib: what it trains, and how, as its documentation recommends it."""
