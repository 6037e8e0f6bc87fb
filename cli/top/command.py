"""`bros top`: ask the daemon, draw, listen to the keyboard."""

from __future__ import annotations

import os
import queue
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live

from bros.brosd.client.client import Client, ClientError
from bros.cli.errors import InputError
from bros.cli.render import PIPE_WIDTH, as_dict, print_json
from bros.cli.target import Target
from bros.cli.top.dashboard import Frame, dashboard
from bros.cli.top.history import History, Snapshot, ask, extended

KEY_WAIT_S = 0.1
FIRST_S = 0.2  # to the second question: a snapshot is made once a second, at an unknown moment
STALE_S = 3.0
KEYS = "q quits, space pauses"
ONCE_ROWS = 40


def top(target: Target, interval_s: float, *, once: bool, json: bool) -> None:
    """Show what the daemon does until the user quits."""
    if once or json:
        with target.connect() as client:
            _print(client, interval_s, once=once, json=json)
        return
    if not sys.stdout.isatty():
        raise InputError("this is not a terminal: use --once, or --json for a line a second")
    _watch(target, interval_s)


# -- without a screen ---------------------------------------------------------------------------


def _print(client: Client, interval_s: float, *, once: bool, json: bool) -> None:
    for history in _histories(client, interval_s):
        if not json:
            _print_picture(history)
        elif once:
            print_json(_as_dict(history))
        else:
            print(msgspec.json.encode(_as_dict(history)).decode(), flush=True)
        if once:
            return


def _histories(client: Client, interval_s: float) -> Iterator[History]:
    """Yield the history after each snapshot but the first, which gives no rates."""
    history: History | None = None
    shown = 1
    while True:
        if snapshot := ask(client):
            history = extended(history, snapshot)
        if history and len(history) > shown:
            shown = len(history)
            yield history
        time.sleep(min(interval_s, FIRST_S) if shown == 1 else interval_s)


def _print_picture(history: History) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = min(PIPE_WIDTH, 100)
    frame = Frame(console, console.width, ONCE_ROWS)
    console.print(dashboard(history, frame))


def _as_dict(history: History) -> dict[str, Any]:
    jobs = [as_dict(job) for job in history.jobs]
    return {**as_dict(history.stats), "rates": history.as_dict(), "jobs": jobs}


# -- on a screen --------------------------------------------------------------------------------


class Poller:
    """Asks for snapshots in a thread, so that keys work while the daemon does not answer."""

    def __init__(self, client: Client, interval_s: float) -> None:
        self._client = client
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._answers: queue.SimpleQueue[Snapshot | ClientError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._answers.put(ask(self._client))
            except ClientError as error:
                self._answers.put(error)
                return
            self._stopped.wait(self._interval_s)

    def take(self) -> Snapshot | None:
        """Return the next snapshot, None if there is none yet. Raise what the client raised."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        if isinstance(answer, ClientError):
            raise answer
        return answer

    def stop(self) -> None:
        """Stop asking."""
        self._stopped.set()
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._client.close()


def _watch(target: Target, interval_s: float) -> None:
    poller = Poller(target.connect(), interval_s)
    console = Console(highlight=False)
    try:
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            _show(console, live, poller, pressed)
    except KeyboardInterrupt:
        pass
    finally:
        poller.stop()


def _show(console: Console, live: Live, poller: Poller, pressed: Callable[[], str]) -> None:
    """Redraw when there is something new, until `q` is pressed."""
    history: History | None = None
    news_s, drawn_s, paused = time.monotonic(), 0.0, False
    while (key := pressed()) not in ("q", "Q"):
        paused ^= key == " "
        snapshot = poller.take()
        now_s = time.monotonic()
        if snapshot is not None:
            news_s, history = now_s, extended(history, snapshot)
        due = snapshot is not None or key == " " or now_s - drawn_s > 1.0
        if due and not (paused and key != " "):
            drawn_s = now_s
            live.update(_picture(console, history, now_s - news_s, paused), refresh=True)


def _picture(
    console: Console, history: History | None, silent_s: float, paused: bool
) -> RenderableType:
    if history is None:
        return "the daemon starts; q quits"
    note = "paused; " if paused else ""
    if silent_s > STALE_S:
        note += f"no news for {silent_s:.0f} s; "
    return dashboard(history, Frame(console, console.width, console.height, note + KEYS))


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Yield a function that waits a moment for a key and returns it, or an empty string."""
    if not sys.stdin.isatty():
        yield _nothing
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed() -> str:
    if not select.select([sys.stdin], [], [], KEY_WAIT_S)[0]:
        return ""
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace")


def _nothing() -> str:
    time.sleep(KEY_WAIT_S)
    return ""
