"""Volumes: the catalogue that judges them, the recipe that makes them, the store that holds them."""
