"""What is wanted and why it does not match: published digests, differences of models, causes."""
