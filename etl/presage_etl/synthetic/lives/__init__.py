"""Persons and what happens to them: latents, hazards, onsets, visits, what is recorded and when."""
