"""Queue, batches and the instances that compute them."""
