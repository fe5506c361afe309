"""Recipes, deployments and packaging jobs of the original agent become ours, with a report."""
