"""The worker process: one device, its weights, its KV pool. Knows rows, not requests or classes."""

if __name__ != "bros.workers":
    raise ImportError("import bros.workers, not workers: one file has one module name")
