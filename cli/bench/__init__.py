"""`bros bench`: put load on OpenAI-compatible servers and measure how they serve it."""
