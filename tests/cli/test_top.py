"""`bros top`: what is on the screen, whatever its size, and what scripts get."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bros.cli.top.charts import bars, shrink
from terminal import Terminal

Open = Callable[..., Terminal]
SIZES = [(80, 24), (200, 60)]
PANELS = ["real-time", "best-effort", "iterations and KV traffic", "KV blocks"]


@pytest.fixture
def busy(tokenizer: Any) -> Any:
    """A daemon whose uptime grows by a second with each answer."""
    tokenizer.busy = True
    return tokenizer


def framed(screen: Terminal) -> list[str]:
    """Return the titles of the panels, left to right, top to bottom."""
    return re.findall(r"╭─ ([\w -]+?) ─", screen.text)


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_picture_is_on_the_screen(busy: Any, terminal: Open, size: Any) -> None:
    screen = terminal("top", "--interval", "0.1", size=size)
    screen.expect(r"best-effort.*tokens/s +400\.0")
    assert sorted(framed(screen)) == sorted(PANELS)
    assert all(len(line) <= size[0] for line in screen.lines)
    assert re.search(
        r"2 running  0 waiting  200 finished  SLO met 98\.0% recently, 95\.0%", screen.text
    )
    assert re.search(
        r"TTFT  p50 +85\.0 ms +p95 +210 ms +p99 +610 ms!  objective 500 ms", screen.text
    )
    assert re.search(r"TPOT  p50 +31\.0 ms +p95 +35\.0 ms +p99 +41\.0 ms  ", screen.text)
    assert re.search(r"30 running  11 waiting  7 finished", screen.text)
    assert "■ RT 250  ■ BE 150  ■ saved 80  ■ shared 20  ■ cached 200  · free 300" in screen.text
    assert screen.text.count("■■") + screen.text.count("■ ■") > 10
    assert screen.lines[-1] == "" or screen.lines[-1].startswith("q quits")
    assert "q quits" in screen.text
    screen.type("q")
    assert screen.wait() == 0


def test_the_job_in_turn_is_shown(busy: Any, terminal: Open, bros: Callable[..., Any]) -> None:
    for name in ("over", "night", "later"):
        busy.add_job(name, total=1200, done=1200 if name == "over" else 300)
    screen = terminal("top", "--interval", "0.1", size=(80, 24))
    screen.expect(r"later in progress: 300 of 1,200 \(25%\), 75 failed; 1 more wait")
    found = json.loads(bros("top", "--once", "--json").stdout)["jobs"]
    assert [(job["job"], job["completed"], job["failed"]) for job in found] == [
        ("later", 225, 75),
        ("night", 225, 75),
    ]


def test_wide_screens_have_two_columns(busy: Any, terminal: Open) -> None:
    screen = terminal("top", "--interval", "0.1", size=(200, 60))
    screen.expect(r"tokens/s +400\.0")
    assert re.search(r"real-time ─+╮╭─ KV blocks ─+╮", screen.text)


def test_several_workers_have_a_map_each(busy: Any, terminal: Open) -> None:
    first = busy.stats.workers[0]
    both = [first, msgspec.structs.replace(first, name="worker-1")]
    busy.stats = msgspec.structs.replace(busy.stats, workers=both)
    screen = terminal("top", "--interval", "0.1")
    screen.expect(r"worker-0  ■.*worker-1  ■")
    assert "■ RT 500" in screen.text
    assert sorted(framed(screen)) == sorted(PANELS)


def test_cells_are_letters_without_colours(busy: Any, terminal: Open) -> None:
    screen = terminal("top", "--interval", "0.1", NO_COLOR="1")
    screen.expect(r"R RT 250  B BE 150.*RXBc\.RXBc")
    assert not re.search(rb"\x1b\[(3[0-7]|9[0-7]|38)", screen.raw)


def test_pause_and_ctrl_c(busy: Any, terminal: Open) -> None:
    screen = terminal("top", "--interval", "0.1")
    screen.expect(r"tokens/s +400\.0")
    screen.type(" ")
    screen.expect("paused; q quits")
    screen.type("\x03")
    assert screen.wait() == 0


def test_the_screen_says_that_the_daemon_is_away(busy: Any, terminal: Open) -> None:
    screen = terminal("top", "--interval", "0.1")
    screen.expect(r"tokens/s +400\.0")
    busy.deaf = 10**9
    screen.expect(r"no news for \d+ s; q quits")
    screen.type("q")
    assert screen.wait() == 0


def test_once_is_a_picture_and_json_an_object(busy: Any, bros: Callable[..., Any]) -> None:
    picture = bros("top", "--once").stdout.decode()
    assert all(title in picture for title in PANELS)
    assert "\x1b" not in picture
    assert "q quits" not in picture
    found = json.loads(bros("top", "--once", "--json").stdout)
    assert found["rates"]["be_tokens_per_s"] == 400
    assert found["rt_latency"]["ttft"]["p99_s"] == 0.61
    assert found["workers"][0]["blocks"]["cells"].startswith("RRXBBSc...")


def test_a_terminal_without_unicode(
    busy: Any, bros: Callable[..., Any], environ: dict[str, str]
) -> None:
    environ["PYTHONIOENCODING"] = "ascii"
    picture = bros("top", "--once").stdout
    assert picture.isascii()
    assert b"R RT 250  B BE 150" in picture


def test_json_is_one_line_per_snapshot(busy: Any, start_bros: Callable[..., Any]) -> None:
    process = start_bros("top", "--json", "--interval", "0.1")
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert second["uptime_s"] > first["uptime_s"]


def test_without_a_terminal(busy: Any, bros: Callable[..., Any]) -> None:
    done = bros("top")
    assert (done.returncode, done.stdout) == (1, b"")
    assert (
        done.stderr == b"error: this is not a terminal: use --once, or --json for a line a second\n"
    )


def test_without_a_daemon(bros: Callable[..., Any]) -> None:
    done = bros("top", "--once")
    assert done.returncode == 1
    assert b"start it with 'brosd start'" in done.stderr


def test_bars_fill_from_below() -> None:
    assert bars([0, 4, 8], 4, 1) == ["  ▄█"]
    assert bars([4, 8], 2, 2) == [" █", "██"]
    assert bars([1, 2], 0, 1) == [""]
    assert bars([5, 0.001], 2, 1, unicode=False) == ["@."]


def test_a_shrunk_map_keeps_what_is_most() -> None:
    assert shrink("RRRB....", 2) == "R."
    assert shrink("RB", 2) == "RB"
