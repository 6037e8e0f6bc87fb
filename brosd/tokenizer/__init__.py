"""The tokenizer process: the front door (HTTP and ZeroMQ), text, and durable batch jobs."""
