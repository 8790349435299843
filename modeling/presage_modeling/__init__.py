"""Pretraining, adaptation and evaluation of 3D encoders."""
