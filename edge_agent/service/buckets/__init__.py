"""Objects by bucket and key: folders below the root, or any S3 endpoint."""
