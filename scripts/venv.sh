#!/bin/sh
# Makes .venv/ with everything that the demo, the tests and the checks need. Run by `make venv`, once; needs a network then
# and never again. It prefers the newest Python that is at least 3.11.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

newest_python() {
    for candidate in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

if [ ! -x .venv/bin/python ]; then
    python=$(newest_python)
    [ -n "$python" ] || fail "no Python 3.11 or newer was found; install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make venv PYTHON=/path/to/python3"
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 \
        || fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3-pip)"
    echo "Making .venv with $("$python" --version); this happens once and takes a few minutes." >&2
    # Half a virtual environment is worse than none.
    rm -rf .venv
    "$python" -m venv .venv || { rm -rf .venv; fail "$python could not make .venv (see above)"; }
fi

pip() {
    .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"
}

# `--group` reads the development tools from pyproject.toml; it came with pip 25.1.
pip install 'pip>=25.1'

# On some platforms the registry's torch brings several GB of CUDA packages. Without an NVIDIA card they are dead weight,
# so the CPU builds are asked for there.
cpu_index=
if ! command -v nvidia-smi >/dev/null 2>&1 \
    && pip install --dry-run --report - --constraint constraints.txt torch 2>/dev/null | grep -q '"name": "nvidia'; then
    cpu_index="--extra-index-url https://download.pytorch.org/whl/cpu"
fi

# The build backend stands in .venv too, so that the packaging test works without a network.
pip install --constraint constraints.txt hatchling editables
# shellcheck disable=SC2086
pip install $cpu_index --constraint constraints.txt --no-build-isolation --editable '.[pocket,math,gp,serve]' --group dev

# It has wheels for some Pythons only. Without it the tests of the default embedder are skipped, with this reason.
pip install --constraint constraints.txt --only-binary wordllama --no-build-isolation --editable '.[embeddings]' \
    || echo "note: the extra \`embeddings\` has no wheel for $(.venv/bin/python --version); going on without it" >&2
