"""`bros`: batches, chat and status of a running daemon. Commands only: each has its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from bros.cli.bench.command import bench
from bros.cli.errors import guarded
from bros.cli.target import ConfigFile, Overrides, target

app = typer.Typer(
    help="Send requests to a running brosd: batches that take their time, and chat that does not.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
batch = typer.Typer(help="List, follow and cancel batch jobs.", no_args_is_help=True)
app.add_typer(batch, name="batch")
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Job = Annotated[str, typer.Argument(help="The job's name, as submit and list show it.")]


@app.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="Requests; - for stdin.")],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Replaced; - for stdout. Default: FILE.results.jsonl."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's name and go.")] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Run an OpenAI batch file. Exit code 3: done, but some lines failed."""
    from bros.cli.submit import submit as run

    raise typer.Exit(run(target(config, set_), file, output, detach=detach))


@batch.command("list")
def list_(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """List all jobs, newest first."""
    from bros.cli.batch import list_jobs

    list_jobs(target(config, set_), json=json)


@batch.command()
def watch(
    job: Job,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Write all results there; - for stdout."),
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Follow a job to its end. Exit codes as for submit."""
    from bros.cli.batch import watch as run

    raise typer.Exit(run(target(config, set_), job, output))


@batch.command()
def cancel(job: Job, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Stop a job. Results it has already stay."""
    from bros.cli.batch import cancel as run

    run(target(config, set_), job)


@app.command()
def chat(
    once: Annotated[str | None, typer.Option(help="Answer this question and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of an answer.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the model that is served.")] = None,
    json: Annotated[bool, typer.Option("--json", help="With --once or a pipe: JSON.")] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Chat in real time. A question can also be piped in."""
    from bros.cli.chat.command import ChatOptions
    from bros.cli.chat.command import chat as run

    options = ChatOptions(model, system, temperature, max_tokens)
    run(target(config, set_), options, once, json=json)


@app.command()
def status(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Show what the daemon does."""
    from bros.cli.render import show_status

    with target(config, set_).connect() as client:
        show_status(client.status(), json=json)


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one picture and exit.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between pictures.")] = 1.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: an object a line, or one with --once.")
    ] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Watch the daemon: latencies, queues, KV blocks. Example: bros top --once --json"""
    from bros.cli.top.command import top as run

    run(target(config, set_), interval, once=once, json=json)


def main() -> None:
    """Entry point of `bros`."""
    raise SystemExit(guarded(app))


if __name__ == "__main__":
    main()
