#!/usr/bin/env bash
# What has to be measured on a GPU, as one table in at most eight minutes (of one H100 or H200):
#
#     tests/benchmarks/gpu.sh              on a GPU
#     tests/benchmarks/gpu.sh --dry-run    the same at tiny sizes on a CPU, to see that every part runs
#
# Each part is a process of its own that must end in time, so that one which fails, or hangs, costs its row alone.
# PYTHON names the interpreter (default: python3). What parts write to stderr stays in a folder that is named at the
# end; TMPDIR says where.
set -uo pipefail
if [[ $# -gt 1 || ( $# = 1 && $1 != --dry-run ) ]]; then
    echo "usage: $0 [--dry-run]" >&2
    exit 2
fi
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

# part:seconds, together less than eight minutes. A part may also use the seconds that earlier ones left. The first one
# also waits for files that no one has read yet.
parts="product:50 dino:40 dino-compiled:80 mae:30 mae-compiled:60 packed:30 on-device:40 fsdp2:40 embed:30 embed-compiled:35 largest:40"

logs=$(mktemp -d) failed="" end=0
trap 'kill -KILL -- "-$!"; exit 130' INT TERM
echo "| part | ms a step: median (range) | images a step | images/s | MFU | of the product's rate | peak GiB | |"
echo "|---|---|---|---|---|---|---|---|"
for part in $parts; do
    name=${part%:*} end=$((end + ${part#*:} * (1 + 9 * $#)))  # a dry run may take ten times as long
    limit=$((end > SECONDS ? end - SECONDS : 1))
    {   # KILL, and to the whole group: a process that waits for a GPU may heed nothing else
        timeout --signal=KILL "$limit" "${PYTHON:-python3}" tests/benchmarks/gpu.py "$name" "$@" \
            >"$logs/$name.out" 2>"$logs/$name.err" &
        wait $!
    } 2>/dev/null # bash's own notice of a killed process
    status=$?
    if [ "$status" = 3 ]; then  # no GPU: no part can run
        cat "$logs/$name.err" >&2
        exit 1
    fi
    row=$(grep '^|' "$logs/$name.out" | tail -n 1) why=""
    if [ "$status" != 0 ]; then
        why="failed with status $status: $(grep . "$logs/$name.err" | tail -n 1 | cut -c 1-200 | tr '|' '/')"
        [ "$SECONDS" -ge "$end" ] && why="stopped after $limit s"
    elif [ -z "$row" ]; then
        why="ended without a row"
    fi
    if [ -n "$why" ]; then
        failed+=" $name"
        [[ "$row" = *"failed: "* ]] || row=${row:+"${row% |}; $why |"}  # else the part itself says why
    fi
    echo "${row:-| $name | | | | | | | $why |}"
done
cat <<'EOF'

MFU and the next column count operations as `biovfm pretrain --dry-run` does: 3 % of DINOv2's and 1 % of MAE's are not
done (packed heads, unused rows of the last block). The product is the first row's, measured again beside each part.
EOF
echo "stderr of all parts: $logs" >&2
for name in $failed; do
    printf '\n--- %s ---\n' "$name" >&2
    tail -n 20 "$logs/$name.err" >&2
done
[ -z "$failed" ]
