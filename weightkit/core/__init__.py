"""The words that everybody uses: small values, expressions over tensors, one pass over them, the bridge to torch."""
