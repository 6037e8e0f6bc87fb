"""`bros`: batches, chat and status of a running daemon. Commands only: each has its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from bros.cli.bench.command import bench
from bros.cli.complete import jobs
from bros.cli.errors import guarded
from bros.cli.model.command import model
from bros.cli.target import ConfigFile, Overrides, target

app = typer.Typer(
    help="Send requests to a running brosd: batches that take their time, and chat that does not.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
batch = typer.Typer(help="List, follow and cancel batch jobs.", no_args_is_help=True)
app.add_typer(batch, name="batch")
app.add_typer(bench, name="bench")
app.add_typer(model, name="model")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Job = Annotated[
    str, typer.Argument(help="The job's name, as submit and list show it.", autocompletion=jobs)
]


@app.command()
def submit(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="OpenAI Batch, CSV or text; - for stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Output file; - for stdout. Default: FILE.results.jsonl."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's name and return.")
    ] = False,
    format_: Annotated[
        str, typer.Option("--format", help="jsonl, csv, tsv or text; auto goes by the file's name.")
    ] = "auto",
    prompt_column: Annotated[str | None, typer.Option(help="CSV column of the prompt.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt with a {column} in it; {prompt} for text.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of each prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of an answer.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Run a batch: an OpenAI Batch file, or prompts from CSV or plain text.

    The exit code is 3 if some lines failed. Ctrl-C leaves the job running.

    Example: bros submit reviews.csv --template "Is this review good or bad? {text}"
    """
    from bros.cli.batch.prompts import PromptOptions
    from bros.cli.batch.submit import submit as run

    given = {"temperature": temperature, "max_tokens": max_tokens}
    params = {name: value for name, value in given.items() if value is not None}
    prompts = PromptOptions(format_, prompt_column, template, system, params)
    raise typer.Exit(run(target(config, set_), file, output, prompts, detach=detach))


@batch.command("list")
def list_(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """List all jobs, newest first. Example: bros batch list --json"""
    from bros.cli.batch.commands import list_jobs

    list_jobs(target(config, set_), json=json)


@batch.command()
def watch(
    job: Job,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Write all results to this file; - for stdout."),
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Follow a job to its end. The exit codes are those of submit.

    Example: bros batch watch batch-20261124-091500-3fa9c1 -o results.jsonl
    """
    from bros.cli.batch.commands import watch as run

    raise typer.Exit(run(target(config, set_), job, output))


@batch.command()
def show(job: Job, json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Show how far a job is. Example: bros batch show batch-20261124-091500-3fa9c1"""
    from bros.cli.batch.commands import show as run

    run(target(config, set_), job, json=json)


@batch.command()
def results(
    job: Job,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write them to this file; default: stdout.")
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Write the results that a job has so far.

    Example: bros batch results batch-20261124-091500-3fa9c1 -o results.jsonl
    """
    from bros.cli.batch.commands import results as run

    run(target(config, set_), job, output)


@batch.command()
def cancel(job: Job, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Stop a job. The results that it has already are kept.

    Example: bros batch cancel batch-20261124-091500-3fa9c1
    """
    from bros.cli.batch.commands import cancel as run

    run(target(config, set_), job)


@app.command()
def chat(
    question: Annotated[
        str | None, typer.Argument(help="Answer this question and exit, as --once does.")
    ] = None,
    once: Annotated[str | None, typer.Option(help="Answer this question and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 is greedy. Default: 0 for one question, 0.2 for a conversation."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of an answer.")] = None,
    model_: Annotated[
        str | None, typer.Option("--model", help="Default: the model that the daemon serves.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; for one question.")] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Chat in real time. A question, or text for the one given, can also be piped in.

    Example: bros chat --once "What is the capital of France?"
    """
    from bros.cli.chat.command import ChatOptions, one_question
    from bros.cli.chat.command import chat as run

    options = ChatOptions(model_, system, temperature, max_tokens)
    run(target(config, set_), options, one_question(question, once), json=json)


@app.command()
def status(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Show what the daemon is doing. Example: bros status --json"""
    from bros.cli.render import show_status

    with target(config, set_).connect() as client:
        show_status(client.status(), json=json)


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one picture and exit.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between pictures.")] = 1.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object per line, or one with --once.")
    ] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Watch the daemon: latencies, queues, KV blocks. Example: bros top --once --json"""
    from bros.cli.top.command import top as run

    run(target(config, set_), interval, once=once, json=json)


@app.command()
def doctor(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Check installation, machine and daemon. The exit code is 1 if something is wrong.

    Example: bros doctor
    """
    from bros.cli.doctor import doctor as run

    raise typer.Exit(run(target(config, set_), json=json))


def main() -> None:
    """Entry point of `bros`."""
    raise SystemExit(guarded(app))


if __name__ == "__main__":
    main()
