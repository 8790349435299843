"""Defects that are planted on purpose, in files and in resources, each with its expected fate."""
