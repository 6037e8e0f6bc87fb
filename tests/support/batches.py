"""Batch files to submit, and what is in the results."""

from __future__ import annotations

import json
from pathlib import Path


def write_batch(path: Path, num_lines: int, *extra: bytes) -> None:
    good = [
        json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions"}).encode()
        for i in range(num_lines)
    ]
    path.write_bytes(b"\n".join([*good, *extra]) + b"\n")


def custom_ids(results: bytes) -> list[str]:
    return [json.loads(line)["custom_id"] for line in results.splitlines()]
