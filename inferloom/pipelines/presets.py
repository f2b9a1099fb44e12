"""Pipelines that come along, and how a name or a path becomes a file everywhere one is accepted."""

from __future__ import annotations

from pathlib import Path

from inferloom.core.errors import SpecError, nearest

_HERE = Path(__file__).parent / "presets"
_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """The presets, sorted."""
    return sorted(entry.stem for entry in _HERE.glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a preset.

    Raises:
        SpecError: There is no such preset; it names the nearest.
    """
    if name not in names():
        near = nearest(name, names())
        raise SpecError(
            f"unknown preset `{name}`" + ("" if near else f"; presets: {', '.join(names())}"), suggestion=near
        )
    return _HERE / f"{name}.yaml"


def resolve(name_or_path: str | Path) -> Path:
    """The file that a user means: an existing path first, else a preset's name.

    Raises:
        SpecError: Neither exists; it names the nearest of both, or lists them.
    """
    file = Path(name_or_path)
    text = str(name_or_path)
    bare = isinstance(name_or_path, str) and "/" not in text and file.suffix not in _SUFFIXES
    try:
        if file.is_file():
            return file
        folder = file.is_dir()
    except (OSError, ValueError):
        # Too long, or with a NUL in it: no file at any rate.
        folder = False
    if bare and text in names():
        return path(text)
    if folder:
        raise SpecError("is a folder; the path of a YAML file or the name of a preset was expected", where=text)
    shown = text if len(text) <= 120 else text[:117] + "..."
    beside = _yaml_files(file.parent)
    presets = names() if bare or file.parent == Path() else []
    near = _near(file, presets, beside)
    known = f"; presets: {', '.join(names())}"
    if beside and file.parent == Path():
        known += f"; files here: {', '.join(entry.name for entry in beside[:8])}" + (", ..." if len(beside) > 8 else "")
    raise SpecError(f"there is no file or preset `{shown}`" + ("" if near else known), suggestion=near)


def _near(file: Path, presets: list[str], beside: list[Path]) -> str | None:
    """The preset or file that was probably meant: one that differs in its suffix only, else the nearest name."""
    by_stem = {entry.stem: entry for entry in beside}
    if file.stem in by_stem:
        return str(by_stem[file.stem])
    near = nearest(file.name, [*presets, *(entry.name for entry in beside)]) or nearest(file.stem, [*presets, *by_stem])
    if near is None or near in presets:
        return near
    return str(by_stem.get(near, file.parent / near))


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix in _SUFFIXES and entry.is_file())
    except (OSError, ValueError):
        return []
