"""Run by an interpreter with llama-cpp-py-sync: `peer_llama.py FILE.gguf` prints JSON."""

import json
import os
import sys
import time

from llama_cpp_py_sync import Llama  # type: ignore[import-not-found]

WORDS = "one two three four five six seven eight " * 16


def main() -> None:
    """Time one stream: the prompt, then decodes after it."""
    threads = len(os.sched_getaffinity(0))
    llm = Llama(sys.argv[1], n_ctx=1024, n_threads=threads, n_threads_batch=threads)

    def seconds(num_output: int) -> tuple[float, int]:
        began_s = time.perf_counter()
        text = llm.generate(WORDS, max_tokens=num_output, temperature=0.0)
        return time.perf_counter() - began_s, len(llm.tokenize(text))

    seconds(4)
    short_s, few = min(seconds(1) for _ in range(3))
    long_s, many = min(seconds(65) for _ in range(2))
    print(json.dumps({"decode ms, batch 1, context 128": 1000 * (long_s - short_s) / (many - few)}))


if __name__ == "__main__":
    main()
