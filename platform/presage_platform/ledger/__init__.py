"""The ledger: what was read, what became of it, and why; identities and links that must not stand in the CDM."""
