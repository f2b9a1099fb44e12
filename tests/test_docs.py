"""Every example in README and docs runs.

In a Markdown file, from top to bottom and in one folder: a YAML block whose first line is a comment `# NAME.yaml` is
written to that file; bash and python blocks are run. A block after a comment `<!-- not run: REASON -->` is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from inferloom.core.errors import SpecError
from inferloom.pipelines.spec import PipelineSpec

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)
_FILE = re.compile(r"# (?P<name>[\w-]+\.(?:yaml|jsonl|csv))\b")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    skipped: bool

    @property
    def file(self) -> str | None:
        """The file that the block is to be written to."""
        named = _FILE.match(self.code)
        return named["name"] if named else None


def blocks(text: str) -> list[Block]:
    return [Block(m["language"], m["code"], m["reason"] is not None) for m in _BLOCK.finditer(text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(document: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(document.read_text()):
        if block.skipped:
            continue
        if block.language == "yaml" and block.file:
            (tmp_path / block.file).write_text(block.code)
        command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}.get(block.language)
        if command:
            done = subprocess.run(
                [*command, block.code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pipelines_in_documents_are_valid(document: Path, tmp_path: Path) -> None:
    for block in blocks(document.read_text()):
        if block.language == "yaml" and not block.skipped and re.search(r"^(steps|nodes):", block.code, re.MULTILINE):
            file = tmp_path / (block.file or "example.yaml")
            file.write_text(block.code)
            PipelineSpec.load(file)


def test_a_broken_example_is_seen(tmp_path: Path) -> None:
    (broken,) = blocks("text\n```yaml\n# x.yaml\nsteps: [{sampel: {model: m}}]\n```\n")
    file = tmp_path / (broken.file or "")
    file.write_text(broken.code)
    with pytest.raises((SpecError, LookupError)):
        PipelineSpec.load(file)


def test_every_left_out_block_says_why() -> None:
    for document in DOCUMENTS:
        for reason in re.findall(r"<!-- not run(.*?)-->", document.read_text()):
            assert re.match(r": \S{3,}", reason), f"{document}: a block is left out without a reason"


def test_links_to_files_lead_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "design").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
