"""`inferloom plan`: what a pipeline would cost, before it is spent."""

from __future__ import annotations

from typing import Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.output import print_json, print_table, print_text
from inferloom.cli.run import PipelineArgument


def plan(
    pipeline: PipelineArgument,
    question_tokens: Annotated[
        int,
        typer.Option("--question-tokens", min=1, help="Tokens assumed for question and prompt wording."),
    ] = 512,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Predict the calls, tokens and money of one run; nothing is asked of a model."""
    from inferloom.pipelines.plan import plan as predict
    from inferloom.pipelines.spec import PipelineSpec

    found = predict(PipelineSpec.load(pipeline), question_tokens)
    if json:
        print_json(found.to_json())
        return
    print_table(
        ["step", "node", "models", "candidates in", "out", "calls", "tokens at most", "usd at most"],
        [
            [
                step.path,
                step.node,
                ", ".join(step.models) or "-",
                _range(step.candidates_in),
                _range(step.candidates_out),
                _range(step.calls),
                f"{step.at_most.tokens:,}",
                f"${step.at_most.usd:.4f}" if step.at_most.usd else "-",
            ]
            for step in found.steps
        ],
        title=f"one run of {found.name}",
    )
    most = found.at_most
    print_text(
        f"{_range(found.calls)} calls; at most {most.prompt_tokens:,} prompt and {most.completion_tokens:,} completion "
        f"tokens, ${most.usd:.4f}, {most.seconds:,.1f} model seconds"
    )
    if found.unpriced:
        print_text(f"without a price, counted as free: {', '.join(found.unpriced)}")
    limits = found.budget.limits()
    if limits:
        print_text("budget: " + ", ".join(f"{name} {limit:g}" for name, limit in limits.items()))
    if found.over_budget:
        print_text(f"the upper bound passes the budget in {', '.join(found.over_budget)}: such a run ends early")


def _range(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} to {pair[1]:,}"
