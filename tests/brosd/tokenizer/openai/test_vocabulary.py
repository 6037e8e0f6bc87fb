"""A tokenizer may have tokens that its model has not: no request takes one to a worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from fake_daemon import CHAT, TEXT, Daemon, stats
from harness import MODEL, wait_until


def max_model_len(daemon: Daemon) -> int:
    card = httpx.get(f"{daemon.url}/v1/models").json()["data"][0]
    return int(card["max_model_len"])


def set_sizes(daemon: Daemon, max_len: int, vocab_size: int) -> None:
    daemon.outbox.send(stats(max_len=max_len, vocab_size=vocab_size))
    wait_until(lambda: max_model_len(daemon) == max_len)


def test_prompts_with_tokens_that_the_model_lacks_are_refused(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    daemon = shared_daemon
    set_sizes(daemon, 500, 100)
    try:
        chat = daemon.post(CHAT)
        assert chat.status_code == 400
        assert chat.json()["error"]["param"] == "messages"
        for prompt in ([504], "Hello there", [[5], [100]]):
            answer = daemon.post({"model": MODEL, "prompt": prompt}, "/v1/completions")
            assert answer.status_code == 400, prompt
            assert answer.json()["error"]["param"] == "prompt"
            assert "no ids above 99" in answer.json()["error"]["message"]
        body = {"model": MODEL, "prompt": [99], "max_tokens": 8}
        served = pool.submit(daemon.post, body, "/v1/completions")
        daemon.answer(daemon.recv_admit().rid, TEXT)
        assert served.result().status_code == 200
    finally:
        set_sizes(daemon, 512, 49152)
