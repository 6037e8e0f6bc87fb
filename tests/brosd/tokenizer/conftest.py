"""A tokenizer process for tests that leave nothing behind in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_daemon import Daemon

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if mood is defined %}The mood is {{ mood }}.{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def templated_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's tokenizer with a chat template that takes a variable and tools."""
    folder = tmp_path_factory.mktemp("templated") / "model"
    weights = shutil.ignore_patterns("*.safetensors", "*.gguf", "*.bin")
    shutil.copytree(model_dir, folder, ignore=weights)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def shared_daemon(templated_dir: Path) -> Iterator[Daemon]:
    """A daemon whose tokenizer process serves many tests: each takes all that it caused."""
    daemon = Daemon.in_scratch(templated_dir)
    yield daemon
    daemon.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool
