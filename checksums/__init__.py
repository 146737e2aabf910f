"""Published digests, one folder a release, as ``md5sum -c`` and ``sha256sum -c`` read them."""
