"""Tiny GGUF files of random weights, and the checkpoints that they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, TokenType
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM

from tiny import make_checkpoint

LAYER_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
BEGIN, END = 0, 1  # token ids


def bytes_vocabulary(size: int) -> list[str]:
    """Tokens of a byte-level vocabulary: two of control, all bytes, and some that never occur."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<bos>", "<eos>", *alphabet, "ab"]
    return [*tokens, *(f"{a}{a}{a}" for a in alphabet)][:size]


def spm_vocabulary(size: int) -> list[str]:
    """Tokens of a SentencePiece vocabulary: of control, all bytes, and letters after a space."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *letters, *(f"\u2581{letter}" for letter in letters)]
    return [*tokens, *(f"{a}{b}" for a in letters for b in letters)][:size]


class GgufFile:
    """A writer that already has what all of our small models of Llama's kind have in common."""

    def __init__(self, path: Path, model: Any, family: str = "llama", parts: int = 1) -> None:
        tensors = len(model.state_dict())
        split = {"split_max_tensors": -(-tensors // parts)} if parts > 1 else {}
        self.writer = GGUFWriter(path, family, **split)
        self._model, self._family = model, family
        config, writer = model.config, self.writer
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(config.head_dim)

    def bytes_tokenizer(self) -> None:
        tokens = bytes_vocabulary(self._model.config.vocab_size)
        self._tokens("gpt2", tokens, num_control=2)
        self.writer.add_token_merges(["a b"])
        self.writer.add_bos_token_id(BEGIN)
        self.writer.add_eos_token_id(END)

    def spm_tokenizer(self) -> None:
        tokens = spm_vocabulary(self._model.config.vocab_size)
        self._tokens("llama", tokens, num_control=3)
        self.writer.add_token_scores([-float(i) for i in range(len(tokens))])
        self.writer.add_unk_token_id(0)
        self.writer.add_bos_token_id(1)
        self.writer.add_eos_token_id(2)

    def _tokens(self, kind: str, tokens: list[str], num_control: int) -> None:
        self.writer.add_tokenizer_model(kind)
        self.writer.add_tokenizer_pre("default")
        self.writer.add_token_list(tokens)
        types = [TokenType.CONTROL] * num_control
        self.writer.add_token_types(types + [TokenType.NORMAL] * (len(tokens) - num_control))

    def write(self, without: str = "", more: Mapping[str, list[float]] | None = None) -> None:
        """Write all tensors but `without`, and `more`, to the file."""
        for name, tensor in self._model.state_dict().items():
            if (ours := self._name(name)) != without:
                self.writer.add_tensor(ours, self._laid_out(name, tensor.float().numpy()))
        for name, values in (more or {}).items():
            self.writer.add_tensor(f"{name}.weight", np.array(values, np.float32))
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def _name(self, name: str) -> str:
        if name in OTHERS:
            return OTHERS[name]
        _, _, layer, rest = name.split(".", 3)
        part, leaf = rest.rsplit(".", 1)
        return f"blk.{layer}.{LAYER_PARTS[part]}.{leaf}"

    def _laid_out(self, name: str, array: np.ndarray) -> np.ndarray:
        """Llama's files have the two halves of a head, which turn together, side by side."""
        config = self._model.config
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if self._family == "llama" and part in name:
                halves = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2)
                return np.ascontiguousarray(halves.reshape(array.shape))
        return np.ascontiguousarray(array)


def tiny_model(family: str, folder: Path, **changes: Any) -> Any:
    """Make a checkpoint whose weights are of bfloat16, as conversion leaves them."""
    sizes = {"head_dim": 16, "tie_word_embeddings": False} | changes
    make_checkpoint(family, folder, **sizes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return model
