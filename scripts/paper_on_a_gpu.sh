#!/bin/sh
# The paper's models on one GPU, from a checkout to a folder that can be sent; docs/paper-on-a-gpu.md describes it.
#
#   sh scripts/paper_on_a_gpu.sh              # Shuffled, Last Letter and SVAMP by the fair protocol; the same command continues
#   sh scripts/paper_on_a_gpu.sh --smoke      # the same steps in minutes, on a CPU, with tiny models of random weights
#   sh scripts/paper_on_a_gpu.sh --help
#
# Variables: PYTHON, the interpreter (python3); ENVIRONMENT, its environment (runs/paper-on-a-gpu/environment), used as it is where
# mentorkd is installed in it; TORCH_INDEX, the index of another build of torch than PyPI's, which is for CUDA on Linux.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
ENVIRONMENT=${ENVIRONMENT:-$root/runs/paper-on-a-gpu/environment}

if ! "$ENVIRONMENT/bin/python" -c 'import mentorkd' 2>/dev/null; then
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "got $PYTHON; expected Python 3.11 or later; name it: PYTHON=python3.12 sh $0" >&2
        exit 2
    fi
    "$PYTHON" -m venv "$ENVIRONMENT"
    "$ENVIRONMENT/bin/python" -m pip install -c "$root/constraints.txt" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
    "$ENVIRONMENT/bin/python" -m pip install -c "$root/constraints.txt" -e "$root"
fi
exec "$ENVIRONMENT/bin/python" "$root/scripts/paper_on_a_gpu.py" "$@"
