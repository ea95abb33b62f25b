#!/usr/bin/env bash
# The fast tests and a sweep of four short trials on each Python that is named and installed here:
#
#     tests/versions.sh 3.10 3.11 3.12 3.13
#
# Each has its own environment, .venv-3.10 and so on, and its output in .venv-3.10.log. One line a
# version; status 1 where one fails, or none is installed.
set -uo pipefail

interpreter() {  # of the version $1, on the PATH or from pyenv; a shim of pyenv may lead nowhere
    local each
    for each in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python"$1"; do
        "$each" -c 'import sys; print(sys.executable)' 2>/dev/null && return
    done
    return 1
}

attempt() {  # what a user of the version $1 does first, with the interpreter $2
    local sweep status=0
    sweep=$(mktemp -d)
    "${MAKE:-make}" "VENV=.venv-$1" "PYTHON=$2" setup \
        && "${MAKE:-make}" "VENV=.venv-$1" "PYTHON=$2" ARGS= test-fast \
        && "${MAKE:-make}" "VENV=.venv-$1" "PYTHON=$2" SYSTEM=hdr_patch \
            ARGS="--trials 4 --dir $sweep/sweep train.steps=20 train.report_every=10" sweep \
        || status=$?
    rm -rf "$sweep"
    return "$status"
}

ran=0 failed=0
for version in "$@"; do
    if ! python=$(interpreter "$version"); then
        echo "$version  not installed"
        continue
    fi
    ran=$((ran + 1)) log=.venv-$version.log
    if attempt "$version" "$python" > "$log" 2>&1; then
        echo "$version  passed: $(grep -E '^=+ .* passed|^Sweep finished' "$log" | tr -d = | xargs)"
    else
        echo "$version  FAILED: $log"
        failed=$((failed + 1))
    fi
done
[ "$ran" -gt 0 ] || echo "None of these is installed: $*"
[ "$ran" -gt 0 ] && [ "$failed" -eq 0 ]
