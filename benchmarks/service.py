"""Load on a running server: streams that stay open, and a long batch file.

    python -m benchmarks.service --url http://127.0.0.1:8000 --runtime /run/bros \
        --streams 500 --seconds 120 --lines 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from bros.brosd.locks import running_pid

LINE_TOKENS = 8


def rss_mb(runtime: Path) -> dict[str, float]:
    """Return the resident memory of the daemon and its children."""
    pid = running_pid(runtime) or 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = {}
    for process in (str(pid), *children):
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        name = words[2] if len(words) > 2 and words[1] == "-m" else "brosd"
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        found[name] = round(pages * 4096 / 2**20, 1)
    return found


async def hold(url: str, model: str, until_s: float, counts: Counter[str]) -> None:
    """Run streams, one after another, until the time is over."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 400, "stream": True}
    body |= {"ignore_eos": True, "slo": {"ttft_ms": 60_000, "tpot_ms": 60_000}}
    async with httpx.AsyncClient(timeout=300.0) as client:
        while time.monotonic() < until_s:
            async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                counts[f"status {answer.status_code}"] += 1
                async for line in answer.aiter_lines():
                    counts["pieces"] += line.startswith("data: {")
                    counts["errors"] += '"error"' in line
                    if time.monotonic() > until_s:
                        return


async def streams(url: str, model: str, runtime: Path, arguments: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()
    began_s = time.monotonic()
    held = [
        asyncio.create_task(hold(url, model, began_s + arguments.seconds, counts))
        for _ in range(arguments.streams)
    ]
    while not all(task.done() for task in held):
        await asyncio.sleep(min(15.0, arguments.seconds / 4))
        print(f"{time.monotonic() - began_s:5.0f} s  {dict(counts)}  MB: {rss_mb(runtime)}")
    failures = [task.exception() for task in held if task.exception()]
    print(f"{arguments.streams} streams, {len(failures)} broken: {failures[:3]}")


def lines(model: str, count: int) -> Iterator[bytes]:
    for index in range(count):
        message = {"role": "user", "content": f"Question {index}: what is {index} and one?"}
        body = {"model": model, "messages": [message], "max_tokens": LINE_TOKENS}
        request = {"custom_id": f"n{index}", "method": "POST", "url": "/v1/chat/completions"}
        yield json.dumps({**request, "body": body}).encode() + b"\n"


def batch(url: str, model: str, runtime: Path, count: int) -> None:
    """Upload a file, create a job, and wait until every line is stored and the job runs."""
    content = b"".join(lines(model, count))
    with httpx.Client(base_url=url, timeout=300.0) as client:
        began_s = time.monotonic()
        files = {"file": ("in.jsonl", content)}
        file = client.post("/v1/files", files=files, data={"purpose": "batch"}).json()
        uploaded_s = time.monotonic() - began_s
        created = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
        job = client.post("/v1/batches", json=created).json()
        peak_mb = 0.0
        while job["status"] == "validating":
            time.sleep(0.2)
            peak_mb = max(peak_mb, rss_mb(runtime)["bros.brosd.tokenizer"])
            job = client.get(f"/v1/batches/{job['id']}").json()
        accepted_s = time.monotonic() - began_s
        total = job["request_counts"]["total"]
        client.post(f"/v1/batches/{job['id']}/cancel")
    print(
        f"{total} lines, {len(content) / 2**20:.1f} MiB: uploaded in {uploaded_s:.1f} s, "
        f"{job['status']} after {accepted_s:.1f} s; tokenizer's peak {peak_mb:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--lines", type=int, default=0)
    arguments = parser.parse_args()
    model = httpx.get(f"{arguments.url}/v1/models").json()["data"][0]["id"]
    if arguments.lines:
        batch(arguments.url, model, arguments.runtime, arguments.lines)
    if arguments.streams:
        asyncio.run(streams(arguments.url, model, arguments.runtime, arguments))


if __name__ == "__main__":
    main()
