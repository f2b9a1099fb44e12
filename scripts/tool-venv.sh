#!/bin/sh
# scripts/tool-venv.sh NAME PACKAGE...: makes .venv-NAME/ with the packages, for tools that want other versions than ours
# (optuna-dashboard, LangGraph's server). Does nothing where it is there. Needs a network the first time.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-$1
shift
[ -f "$venv/.stamp" ] && exit 0
rm -rf "$venv"
${PYTHON:-python3} -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install "$@"
touch "$venv/.stamp"
