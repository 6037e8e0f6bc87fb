"""The worker process: a device, a model's weights and a KV pool. It knows rows, not requests."""

if __name__ != "bros.workers":
    raise ImportError("import bros.workers, not workers: one file has one module name")
