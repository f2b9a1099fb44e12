"""Run a command beside a PostgreSQL server of its own, whose URL stands in INFERLOOM_TEST_POSTGRES.

    python scripts/with_postgres.py python -m pytest tests/store tests/memory

The server is that of the package `pgserver` (pip; it has pgvector) or, where that has no wheel, the system's PostgreSQL
(Debian: apt install postgresql). Its data lie in a folder for temporary files and are gone afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def packaged(folder: str) -> Iterator[str]:
    """A server of the package `pgserver`."""
    from pgserver import get_server  # type: ignore[attr-defined]  # its package says not what it exports

    server = get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def of_the_system(folder: str) -> Iterator[str]:
    """A server of the PostgreSQL that is installed; it refuses to run as root."""
    places = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    control = shutil.which("pg_ctl", path=os.pathsep.join(places))
    if control is None:
        sys.exit("error: no PostgreSQL was found; run `pip install pgserver` or `apt install postgresql`")
    if os.geteuid() == 0:
        sys.exit("error: the system's PostgreSQL refuses to run as root; be another user, or `pip install pgserver`")
    subprocess.run([control, "init", "-D", folder, "-o", "--auth=trust --username=postgres"], check=True, stdout=2)
    options = f"-c listen_addresses='' -k {folder}"
    log = f"{folder}/server.log"
    subprocess.run([control, "start", "-w", "-D", folder, "-l", log, "-o", options], check=True, stdout=2)
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([control, "stop", "-w", "-m", "immediate", "-D", folder], check=False, stdout=2)


def main() -> int:
    """Start the server, run the command, and give its exit code."""
    try:
        import pgserver  # noqa: F401

        start = packaged
    except ImportError:
        start = of_the_system
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="pg") as folder, start(folder) as url:
        driver = url.replace("postgresql://", "postgresql+psycopg://", 1)
        sys.stderr.write(f"PostgreSQL: {driver}\n")
        environment = {**os.environ, "INFERLOOM_TEST_POSTGRES": driver}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
