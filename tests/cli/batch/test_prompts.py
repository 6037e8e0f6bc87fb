"""`bros submit` of prompts in CSV, TSV and text: which lines they become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batches import custom_ids

Bros = Callable[..., Any]


def test_prompts_from_csv(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('custom_id,text\na,"good, so good"\n,bad\nc,\n')
    template = 'Is {text} good? {"yes": 1}'
    options = ["--template", template, "--system", "Judge.", "--max-tokens", "3"]
    done = bros("submit", "in.csv", *options, "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert custom_ids((tmp_path / "in.results.jsonl").read_bytes()) == ["a", "row-2", "c"]
    (job,) = tokenizer.jobs.values()
    first = json.loads(job.lines[0])
    assert first["body"] == {
        "model": "smollm2-135m-instruct",
        "temperature": 0.0,
        "max_tokens": 3,
        "messages": [
            {"role": "system", "content": "Judge."},
            {"role": "user", "content": 'Is good, so good good? {"yes": 1}'},
        ],
    }


def test_prompts_from_text_and_tsv(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\ufeffone\n\n two \n")
    assert bros("submit", "in.txt", "--template", "Say {prompt}!").returncode == 0
    tsv = b"id\tquestion\n1\twhy?\n"
    done = bros("submit", "-", "--format", "tsv", "--prompt-column", "question", stdin=tsv)
    assert done.returncode == 0
    jobs = [[json.loads(line) for line in job.lines] for job in tokenizer.jobs.values()]
    said = [[line["body"]["messages"][0]["content"] for line in job] for job in jobs]
    assert said == [["Say one!", "Say two!"], ["why?"]]
    assert [line["custom_id"] for line in jobs[0]] == ["line-1", "line-3"]


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        ("a,b\n1,2\n", [], "--prompt-column: a, b"),
        ("a,b\n1,2\n", ["--prompt-column", "c"], "there is no column c; there are: a, b"),
        ("a,b\n1,2\n", ["--template", "{c}"], "{c}, which is none of {a}, {b}"),
        ("a,b\n1,2\n", ["--template", "{prompt}"], "{prompt}, which is none of {a}, {b}"),
        ("a\n", [], "there are no prompts"),
        ("", [], "which column holds the prompt?"),
        ("a\n1\n", ["--format", "xml"], "choose one of auto, jsonl, csv, tsv, text"),
        ("a\n1\n", ["--format", "jsonl", "--system", "x"], "give --format csv, tsv or text"),
        ("a\n1\n", ["--format", "text", "--prompt-column", "a"], "--prompt-column is for CSV"),
        ('a\n"x', [], "the CSV breaks after line 1"),
    ],
)
def test_bad_prompt_files_cost_one_line(
    tokenizer: Any, bros: Bros, tmp_path: Path, content: str, arguments: list[str], reason: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    done = bros("submit", "in.csv", *arguments)
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, line[:7]) == (1, "error: ")
    assert reason in line
    assert not tokenizer.jobs
