"""Run by the interpreter of vLLM's environment: `peer_vllm.py MODEL_FOLDER` prints JSON.

vLLM's engine in this process, without its server, so the figures are its best.
"""

import json
import os
import random
import sys
import time

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]


def main() -> None:
    """Time some mixes of (sequences, input tokens, output tokens)."""
    llm = LLM(
        sys.argv[1], dtype="bfloat16", max_model_len=2304, max_num_seqs=64,
        enable_prefix_caching=False, disable_log_stats=True,
    )  # fmt: skip
    rng = random.Random(1)

    def seconds(count: int, num_input: int, num_output: int) -> float:
        prompts = [
            {"prompt_token_ids": [rng.randrange(100, 49000) for _ in range(num_input)]}
            for _ in range(count)
        ]
        params = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
        began_s = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - began_s

    seconds(2, 64, 8)
    prefill_s = min(seconds(1, 1024, 1) for _ in range(3))
    short_s = min(seconds(1, 128, 1) for _ in range(3))
    single_s = min(seconds(1, 128, 65) for _ in range(2))
    figures = {
        "decode ms, batch 1, context 128": 1000 * (single_s - short_s) / 64,
        "prefill tokens/s": 1024 / prefill_s,
        "output tokens/s, 32 x 128/64": 32 * 64 / seconds(32, 128, 64),
        "output tokens/s, 64 x 256/64": 64 * 64 / seconds(64, 256, 64),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
