#!/bin/sh
# Makes .venv-rivals/ for `make bench-serve`: the servers of other toolkits, each in an environment of its own. One that
# cannot be installed here is left out, with the reason in .venv-rivals/NAME.txt. Needs a network.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
mkdir -p .venv-rivals

add() {
    name=$1
    shift
    venv=.venv-rivals/$name
    rm -rf "$venv" "$venv.txt"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet install 'pip>=25.1'
    if ! timeout 1800 "$venv/bin/python" -m pip --disable-pip-version-check --quiet install "$@" 2>"$venv.log"; then
        rm -rf "$venv"
        echo "$* could not be installed: $(grep -v WARNING "$venv.log" | tail -n 1)" >"$venv.txt"
        cat "$venv.txt" >&2
    fi
    rm -f "$venv.log"
}

add its_hub 'its_hub[iaas]==1.2.0'
add optillm 'optillm==0.4.0'
