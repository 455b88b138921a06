"""A tailoring as a recipe for mergekit."""
