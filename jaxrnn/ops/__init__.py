"""Building blocks of the engines and the cells: products, selection, chunks, norms."""
