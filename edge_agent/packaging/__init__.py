"""A model package and a target become a Greengrass model component, by jobs kept on disk."""
