"""Model packages on disk: read, verified, signed, deployed."""
