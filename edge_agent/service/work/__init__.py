"""Work that outlives a call: training, evaluation, imports and packaging, in child processes."""
