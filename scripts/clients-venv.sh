#!/bin/sh
# Makes .venv-clients/ for the tests that use the server as its clients do: the official SDKs, two evaluation harnesses, a
# fuzzer. They stand apart since what they need need not fit what inferloom needs; inferloom itself is not in there. Run by
# `make test-clients`, once; needs a network then.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-clients

python=
for candidate in ${PYTHON:-} python3.12 python3.11 python3.13 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.11 or newer with the venv module was found" >&2
    exit 2
fi
echo "Making $venv with $("$python" --version); this happens once and takes a few minutes." >&2
rm -rf "$venv"
"$python" -m venv "$venv"

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}

pip install 'pip>=25.1'
pip install \
    'openai==3.54.0' \
    'langchain-openai==1.7.4' \
    'inspect-ai==0.3.285' \
    'lm-eval[api]==0.4.13' \
    'schemathesis==4.32.5' \
    pytest pytest-asyncio pytest-timeout
