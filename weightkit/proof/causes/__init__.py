"""Causes of a mismatch, and how each is told: used by ``explain``, a module for each kind."""
