"""Converts a GGUF file into a Hugging Face folder, or refuses it: nothing in it is dropped.

transformers reads the weights and most of the configuration. What it leaves out is added here: how
the rotary embedding is scaled, all tokens that end an answer, and the tokenizer's flags.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from bros.workers.models.errors import ModelError
from bros.workers.models.gguf_rope import scaled_rope
from bros.workers.models.gguf_tokenizer import save_tokenizer

log = logging.getLogger(__name__)

ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
REMEDY = "download the file again, or give a Hugging Face folder of the model"
MAX_NAMED = 5  # tensors in an error


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model, dequantised to bfloat16, and its tokenizer into a folder.

    Raise ModelError if the file cannot be read, is a part of a model, or holds what would be lost.
    """
    log.info("event=convert file=%s", file.name)
    try:
        _convert(file, folder)
    except (OSError, MemoryError):
        raise
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None
    except Exception as error:  # the parsers below raise anything for a file that is broken
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{file} cannot be read as a model ({reason}): {REMEDY}") from error


def _convert(file: Path, folder: Path) -> None:
    from gguf import GGUFReader

    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != b"GGUF":
        raise ModelError(f"this is not a GGUF file: {REMEDY}")
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _refuse_parts(fields)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "model.gguf"  # transformers goes by a name in small letters
        link.symlink_to(file.resolve())
        model = _load(link)
        _set_rope(model.config, fields, tensors)
        _set_ends(model, fields)
        model.save_pretrained(folder)
        save_tokenizer(link, fields, folder)


def _refuse_parts(fields: dict[str, Any]) -> None:
    count = int(fields.get("split.count", 1))
    if count > 1:
        number = int(fields.get("split.no", 0)) + 1
        raise ModelError(
            f"this is part {number} of {count}: join the parts first "
            "(llama-gguf-split --merge FIRST_PART WHOLE.gguf)"
        )


def _load(file: Path) -> Any:
    """Return the model. Raise ModelError if the file lacks some of its tensors."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    # Without `dequantize` the weights would stay packed, and could not be saved.
    model, found = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        output_loading_info=True,
    )
    missing = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if missing:
        named = ", ".join(missing[:MAX_NAMED])
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise ModelError(f"tensors of the model are missing ({named}{more}): {REMEDY}")
    return model


def _set_rope(config: Any, fields: dict[str, Any], tensors: dict[str, Any]) -> None:
    scaling = scaled_rope(fields, tensors, config.max_position_embeddings)
    if not scaling:
        return
    rope = dict(config.rope_parameters)
    if "full_attention" in rope:  # layers that slide are not scaled
        config.rope_parameters = rope | {"full_attention": rope["full_attention"] | scaling}
        return
    config.rope_parameters = rope | scaling
    if hasattr(config, "original_max_position_embeddings"):  # Phi-3 has it twice
        config.original_max_position_embeddings = scaling["original_max_position_embeddings"]


def _set_ends(model: Any, fields: dict[str, Any]) -> None:
    ends = [int(fields[key]) for end in ENDS if (key := f"tokenizer.ggml.{end}") in fields]
    own = model.config.eos_token_id
    if isinstance(own, list):  # transformers knows more of some families
        ends = [*own, *ends]
    distinct = list(dict.fromkeys(ends))
    eos = distinct[0] if len(distinct) == 1 else distinct or None
    model.config.eos_token_id = model.generation_config.eos_token_id = eos
