"""BROS: real-time and best-effort LLM requests on one model and one set of GPUs.

The packages live at the top of the repository and are linked here, so that each file has exactly
one module name (`bros.kv`, never `kv`) in a checkout, an editable install and a wheel alike.
"""

__version__ = "0.1.0"
