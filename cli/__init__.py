"""The command line: `bros` for people with requests, `brosd` for people with servers."""

if __name__ != "bros.cli":
    raise ImportError("import bros.cli, not cli: one file has one module name")
