"""The cells, each with its equations, its adjoint equations and its source."""
