"""Training: the optimizer, one step as a value, and the loop around it."""
