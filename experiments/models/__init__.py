"""Networks: a cell, what stands before and after it, and how its parameters begin."""
