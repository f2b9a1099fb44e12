"""Models in a file of their own, shared by pipelines: `models: models.yaml` instead of a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inferloom.core.errors import SpecError
from inferloom.models.spec import ModelSpec
from inferloom.pipelines.document import Document, load_document


def load_models(path: str | Path) -> Mapping[str, ModelSpec]:
    """The models of a file, by name.

    Raises:
        SpecError: It cannot be read, or a model in it is wrong; `where` is in that file.
    """
    document = load_document(Path(path))
    if not isinstance(document.data, dict) or not document.data:
        raise document.error((), "a file of models must map names to models, such as `small: pocket:small`")
    return {
        name: ModelSpec.parse(value, where=f"{document.where((name,))}: {name}")
        for name, value in document.data.items()
    }


def inline_models(document: Document) -> Document:
    """The document with its `models: FILE` replaced by what the file says; other documents as they are.

    The path is relative to the document's folder.

    Raises:
        SpecError: There is no such file, or a model in it is wrong.
    """
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("models"), str):
        return document
    file = (document.path.parent if document.path else Path()) / str(data["models"])
    try:
        load_models(file)
        models = load_document(file).data
    except SpecError as error:
        if error.where == str(file):
            raise document.error(("models",), f"`{file}`: {error.message}", error.suggestion) from None
        raise
    return replace(document, data={**data, "models": models})
