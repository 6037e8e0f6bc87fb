"""A model with random weights, for measurements where no real model of that size is at hand.

`python -m benchmarks.random_model FOLDER` writes one in the shape of Llama 3 8B: 7.4B parameters,
with the default model's vocabulary. It is as fast as a real one, and its text is noise. Measure it
with `bros bench hybrid --set model.name=FOLDER` and `python -m benchmarks.executor FOLDER`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from bros.brosd.config import DEFAULT_MODEL, load
from bros.workers.models.resolve import resolve

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make(folder: Path, like: Path, hidden: int, layers: int) -> int:
    """Write the model with the tokenizer of the folder `like`. Return its number of parameters."""
    known = AutoConfig.from_pretrained(like, local_files_only=True)
    config = LlamaConfig(
        vocab_size=known.vocab_size,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        max_position_embeddings=8192,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(like / name, folder / name)
    return int(model.num_parameters())


def main() -> None:
    """Make the model and print its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 512")
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    like = resolve(DEFAULT_MODEL, load(overrides=[], environ={}).cache)
    size = make(arguments.folder, like, arguments.hidden, arguments.layers)
    print(f"{arguments.folder}: {size / 1e9:.2f}B parameters")


if __name__ == "__main__":
    main()
