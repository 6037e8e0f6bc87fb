"""BROS: real-time and best-effort LLM requests on one model and one set of GPUs.

The packages below it lie at the top of the repository. `pyproject.toml` says which folder is which
package, so that each file has exactly one module name (`bros.kv`, never `kv`) in a checkout and
in a wheel alike.
"""

__version__ = "0.1.0"
