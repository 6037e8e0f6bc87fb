"""The HTTP server: routes, authentication, uploads, metrics."""
