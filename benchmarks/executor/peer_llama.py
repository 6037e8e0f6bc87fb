"""Run by an interpreter with llama-cpp-python: `peer_llama.py FILE.gguf` prints JSON."""

import json
import os
import sys
import time
from statistics import median

from llama_cpp import Llama  # type: ignore[import-not-found]

CONTEXT, PROMPT, DECODES = 128, 1024, 64  # tokens


def main() -> None:
    """Time one stream: decodes after a short prompt, and a long prompt."""
    threads = len(os.sched_getaffinity(0))
    llm = Llama(sys.argv[1], n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def seconds(tokens: list[int]) -> float:
        began_s = time.perf_counter()
        llm.eval(tokens)
        return time.perf_counter() - began_s

    def after(num_tokens: int) -> float:
        """Seconds of that many tokens from the start."""
        llm.reset()
        return seconds([1000 + i for i in range(num_tokens)])

    after(CONTEXT)
    decodes_s = [seconds([1000 + i]) for i in range(DECODES)]
    prompt_s = min(after(PROMPT) for _ in range(3))
    decode_ms = 1000 * median(decodes_s)
    figures = {
        "decode ms, batch 1, context 128": decode_ms,
        "decode ms, batch 1, context 128, int8": decode_ms,  # its weights have four bits
        "prefill tokens/s": PROMPT / prompt_s,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
