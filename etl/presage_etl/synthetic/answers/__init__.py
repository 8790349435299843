"""What is true: tables of the truth, labels, both oracles and their ceilings."""
