"""Models on disk: finding, fetching, converting and listing them, and reading their shape."""
