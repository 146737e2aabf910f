"""Facts about model families, in tables: names, their order, what a tensor is. No I/O."""
