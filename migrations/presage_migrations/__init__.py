"""Revisions of the database schema, shipped with the package that needs them."""
