"""The ground floor of presage: what every stage shares, and the contracts between stages."""

__version__ = "0.1.0"
