"""What is built is what is in the tree, and it works where only it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from; the working tree may change while the test runs."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "inferloom", copy / "inferloom", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel, with the dependencies of this one on its path; its `bin`."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        wheel,
        cwd=folder,
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    # Dependencies only: an editable install hangs on .pth files, which are not read in a folder added this way.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_wheel_holds_every_file_of_the_tree(source: Path, wheel: Path) -> None:
    tree = {str(path.relative_to(source)) for path in (source / "inferloom").rglob("*") if path.is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("inferloom/")}
    assert packed == tree


@pytest.mark.parametrize("suffix", [".yaml", ".safetensors", ".typed"])
def test_wheel_holds_data_files(wheel: Path, suffix: str) -> None:
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(suffix)]


def test_installed_package_works_away_from_the_tree(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import inferloom; print(inferloom.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert (
        run(installed / "inferloom", "--version", cwd=tmp_path).strip()
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )
    nodes = json.loads(run(installed / "inferloom", "nodes", "--json", cwd=tmp_path))
    assert "vote" in {node["name"] for node in nodes}


def test_installed_package_answers(installed: Path, tmp_path: Path) -> None:
    """Presets, prompts, migrations and weights are all where the code looks for them."""
    answer = run(installed / "inferloom", "run", "single", "12+34", "--json", "--stream", "s", cwd=tmp_path)
    assert json.loads(answer)["usage"]["calls"] == 1


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {_canonical(name): version for name, version in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    pins = _pins()
    for requirement in (Requirement(text) for group in lists for text in group):
        pin = pins.get(_canonical(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has an NVIDIA card")
def test_no_cuda_packages_on_a_machine_without_a_gpu() -> None:
    assert [dist.name for dist in distributions() if _canonical(dist.name).startswith("nvidia-")] == []


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A copy of what setting up needs, and a `bin` that holds the shell's tools but no Python."""
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "rm"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def _set_up(machine: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [machine / "scripts" / "venv.sh"],
        env={"PATH": str(machine / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_python_is_one_line_that_says_what_to_install(bare_machine: Path) -> None:
    done = _set_up(bare_machine)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Python 3.11 or newer")
    assert "apt install python3" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_python_without_venv_is_one_line_that_says_what_to_install(bare_machine: Path) -> None:
    fake = bare_machine / "bin" / "python3"
    fake.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    fake.chmod(0o755)
    done = _set_up(bare_machine)
    assert done.returncode == 2
    assert "has no venv module; install it" in done.stderr
    assert "python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (bare_machine / ".venv").exists()


def test_ci_runs_the_commands_of_the_readme() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make")]
    assert lines == ["make check", "make test", "make test-postgres", "make test-vllm", "make test-clients"]
    for command in ("make demo", "make test"):
        assert command in (ROOT / "README.md").read_text()
