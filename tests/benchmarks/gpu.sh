#!/usr/bin/env bash
# What has to be measured on a GPU, as one table in at most eight minutes (of one H100 or H200):
#
#     tests/benchmarks/gpu.sh              on a GPU
#     tests/benchmarks/gpu.sh --dry-run    the same at tiny sizes on a CPU, to see that every part runs
#
# Each part is a process of its own with its own limit, so that one which fails, or takes too long, costs its row alone.
# PYTHON names the interpreter (default: python).
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# part:seconds, together eight minutes; the first also waits for files that no one has read yet
parts="dino:50 dino-compiled:85 mae:35 mae-compiled:65 packed:35 on-device:40 fsdp2:55 embed:30 embed-compiled:40 largest:45"

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
failed=0
echo "| part | ms a step | images/s | MFU | peak GiB | |"
echo "|---|---|---|---|---|---|"
for part in $parts; do
    name=${part%:*} seconds=${part#*:}
    [ "${1:-}" = --dry-run ] && seconds=300
    timeout --kill-after=5 "$seconds" "${PYTHON:-python}" tests/benchmarks/gpu.py "$name" "$@" 2>"$errors"
    status=$?
    [ "$status" = 0 ] && continue
    failed=$((failed + 1))
    [[ "$status" = 124 || "$status" = 137 ]] && reason="took more than $seconds s" || reason="failed: $(tail -n 1 "$errors" | cut -c 1-150)"
    echo "| $name | | | | | ${reason//|/ } |"
done
exit "$((failed > 0))"
