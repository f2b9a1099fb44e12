"""The page of a run: one self-contained HTML file, from what the database has of it. No model is called."""

from __future__ import annotations

from inferloom.core.errors import InferloomError
from inferloom.pipelines.page import page_environment
from inferloom.serving.run_view import RunView, view
from inferloom.store import Store


def run_page(store: Store, run_id: str) -> str:
    """The page of a run, also of one that goes on, failed, or whose process was killed: what is committed by now.

    Args:
        store: The database.
        run_id: The run's id, or the beginning of it.

    Raises:
        UnknownNameError: There is no such run.
        UserError: The beginning of an id stands for several runs.
    """
    shown = view(store, run_id)
    environment = page_environment("inferloom.serving")
    return environment.get_template("run.html.j2").render(view=shown, run=shown.run, **_picture(shown))


def _picture(shown: RunView) -> dict[str, object]:
    """The pipeline's name and graph; without a graph where this version cannot read it."""
    from markupsafe import Markup

    from inferloom.pipelines import draw
    from inferloom.pipelines.spec import PipelineSpec

    if shown.yaml is None:
        return {"name": None, "graph": None}
    try:
        spec = PipelineSpec.parse(shown.yaml)
    except InferloomError:
        return {"name": None, "graph": None}
    return {"name": spec.name, "graph": Markup(draw.svg(spec, shown.ran))}
