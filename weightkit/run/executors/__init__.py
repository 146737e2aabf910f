"""What order, how many at once. An executor decides when a file is written, never what is in it."""
