"""What the engines and the cells are made of: products, selection, chunks, norms."""
