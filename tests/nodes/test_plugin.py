"""A node of another package is found through its entry point, described, and held to the same contract."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the plugin as an installer leaves it: the module, and the metadata with its entry points."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["inferloom"]
    (metadata / "entry_points.txt").write_text("[inferloom]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    (tmp_path / "inferloom_shout.py").write_text((PLUGIN / "inferloom_shout.py").read_text())
    return tmp_path


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the plugin is installed."""
    path = os.pathsep.join([str(installed), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_found_when_it_is_asked_for_and_listed(installed: Path) -> None:
    program = (
        "import sys\n"
        "from inferloom.nodes.base import NODES\n"
        "NODES.get('sample')\n"
        "assert 'inferloom_shout' not in sys.modules, 'loaded without need'\n"
        "print(NODES.get('shout/first').__module__, 'shout/first' in NODES.names())\n"
        "from inferloom.nodes.describe import describe\n"
        "print(describe('shout/first')['snippet'])\n"
    )
    done = python(installed, "-c", program)
    assert done.stdout == "inferloom_shout True\n- shout/first:\n    count: 1\n\n", done.stderr


def test_the_contract_suite_runs_over_it_without_our_settings(installed: Path) -> None:
    done = python(
        installed, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", str(PLUGIN / "contract.py")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
