"""From bytes or shared memory to the model, and from its outputs to a verdict."""
