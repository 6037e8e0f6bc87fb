"""The daemon: configuration, messages, scheduling, supervision, and the tokenizer process."""

if __name__ != "bros.brosd":
    raise ImportError("import bros.brosd, not brosd: one file has one module name")
