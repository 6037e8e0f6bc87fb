"""`bros bench`: load on OpenAI-compatible servers, and what they make of it."""
