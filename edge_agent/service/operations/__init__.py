"""What each operation does; one module a kind of resource."""
