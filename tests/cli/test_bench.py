"""`bros bench hybrid`: what it sends, its figures, and a run on a real server."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bros.cli.bench.load import Objectives, Record, Seen
from bros.cli.bench.report import Result, plot
from bros.cli.bench.servers import Server
from bros.cli.bench.workload import Lengths, Workload, body, read_trace
from bros.cli.errors import InputError
from harness import PLAIN, MakeServer, wait_until
from harness import Server as Daemon
from traffic import wait_for_stats

WORKLOAD = Workload(duration_s=500.0, rate=2.0, rt=Lengths(120, 48), be=Lengths(300, 96), seed=1)
SLO = Objectives(ttft_s=0.5, tpot_s=0.08)
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:48.6805900,396,109
2023-11-16 18:15:50.6805900,12,3
"""


def test_a_seed_is_a_workload() -> None:
    assert WORKLOAD.arrivals() == WORKLOAD.arrivals()
    assert WORKLOAD.arrivals() != replace(WORKLOAD, seed=2).arrivals()
    one, other = (list(itertools.islice(WORKLOAD.be_lengths(i), 5)) for i in (0, 1))
    assert one != other
    assert body(Lengths(9, 3), "a", "m") == body(Lengths(9, 3), "a", "m")
    assert body(Lengths(9, 3), "a", "m") != body(Lengths(9, 3), "b", "m")


def test_arrivals_have_the_rate_and_the_lengths_that_were_asked_for() -> None:
    arrivals = WORKLOAD.arrivals()
    assert 850 < len(arrivals) < 1150  # Poisson, mean 1000
    assert {60, 180} == {f(a.lengths.prompt for a in arrivals) for f in (min, max)}
    mean_output = sum(a.lengths.output for a in arrivals) / len(arrivals)
    assert 45 < mean_output < 51
    assert replace(WORKLOAD, rate=0.0).arrivals() == []


def test_a_trace_is_played_at_the_rate(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(AZURE)
    trace = read_trace(file)
    assert [arrival.lengths for arrival in trace] == [
        Lengths(374, 44),
        Lengths(396, 109),
        Lengths(12, 3),
    ]
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(trace)]
    assert gaps == pytest.approx([2.0, 2.0])
    seed = next(s for s in range(99) if len(replace(WORKLOAD, trace=trace, seed=s).arrivals()) == 3)
    played = replace(WORKLOAD, trace=trace, seed=seed, rate=3.0).arrivals()
    assert [arrival.at_s for arrival in played] == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column arrival_s or TIMESTAMP"),
        ("arrival_s,prompt_tokens\n1,2\n", "no column output_tokens or GeneratedTokens"),
        ("arrival_s,prompt_tokens,output_tokens\n", "no requests"),
        ("arrival_s,prompt_tokens,output_tokens\n1,many,3\n", "line 2: .*many"),
        ("arrival_s,prompt_tokens,output_tokens\nsoon,1,3\n", "line 2: .*soon"),
    ],
)
def test_a_bad_trace_says_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_trace(file)


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    in_time = Record(0.0, 10, output_tokens=11, ttft_s=0.2, e2e_s=0.9)
    slow = Record(1.0, 10, output_tokens=11, ttft_s=0.2, e2e_s=1.2)
    late = Record(2.0, 10, output_tokens=1, ttft_s=0.6, e2e_s=0.6)
    lost = Record(3.0, 10, error="no answer in time")
    seen = Seen(10.0, [in_time, slow, late, lost], be_events=500)
    seen.be_finished_events, seen.be_finished_tokens = 100, 110
    result = Result.of("x", [seen], SLO)
    assert (result.rt_requests, result.rt_errors, result.attained) == (4, 1, 0.25)
    assert result.ttft.p50 == pytest.approx(0.2)
    assert result.tpot.mean == pytest.approx((0.07 + 0.1 + 0.0) / 3)
    assert result.e2e.mean == pytest.approx(0.9)
    assert result.be_tokens_per_s == pytest.approx(55.0)
    plot({"x": [seen]}, SLO, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_error_names_a_url_that_serves_no_model(make_server: MakeServer) -> None:
    done = make_server(start=False).run("bros", "bench", "hybrid", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: http://127.0.0.1:9 does not answer")


def test_a_daemon_that_does_not_start_is_an_error() -> None:
    server = Server("x", settings=("scheduler.policy=none",))
    with pytest.raises(InputError, match="could not be started"), server.running():
        pass


@pytest.mark.server(*PLAIN)
def test_a_run_counts_what_a_server_answers(server: Daemon, tmp_path: Path) -> None:
    def answered() -> int:
        """Return RT's output tokens, which the daemon reports once a second."""
        done = server.run("bros", "status", "--json")
        return int(json.loads(done.stdout)["rt"]["output_tokens"])

    wait_for_stats(server)
    before = answered()
    load = ["--duration", "4", "--rate", "2", "--in-flight", "4", "--be-out", "16"]
    command = ["bros", "bench", "hybrid", "--url", server.url, *load, "--json"]
    done = server.run(*command, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    arrivals = replace(WORKLOAD, duration_s=4.0).arrivals()
    assert result["rt_requests"] == len(arrivals)
    assert result["rt_errors"] == result["be_errors"] == 0
    assert result["be_finished"] > 0
    assert result["be_tokens_per_s"] > 0
    assert json.loads((tmp_path / "out" / "hybrid.json").read_text()) == [result]
    assert (tmp_path / "out" / "hybrid.png").exists()
    warm_up_s = 5.0
    warm = replace(WORKLOAD, duration_s=warm_up_s, seed=-2).arrivals()
    asked = sum(a.lengths.output for a in [*arrivals, *warm])
    wait_until(lambda: answered() >= before + asked)
    assert answered() == before + asked
