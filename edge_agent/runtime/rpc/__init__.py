"""The gRPC front: it only translates."""
