"""How a release was published, a module each: from a base and a payload to the release, and back."""
