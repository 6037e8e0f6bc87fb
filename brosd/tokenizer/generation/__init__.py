"""From text to tokens and back, for requests that are being generated."""
