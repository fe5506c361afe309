"""Load against a running agent through its public socket, beside the raw engine in the same run."""
