"""Numbers of the original codes, and cmlab's answer to each: see tests/reference/README.md."""
