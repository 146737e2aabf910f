"""What is wanted, what is there, and why the two do not match. Reads; writes nothing.

expecting    published digests become what a plan's files must have
seek         which rounding, order of sums and torch gives a published digest
lists        lists of digests: their names, the catalog's
glance       what a file is at first sight
kinds        what a file or folder is, by its bytes
contents     content digests of a checkpoint's tensors
differences  two models, tensor by tensor
causes       what differences tell
"""
