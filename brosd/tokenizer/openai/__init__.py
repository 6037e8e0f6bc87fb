"""OpenAI's API, whatever transport brought the request."""
