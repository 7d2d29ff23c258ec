#!/usr/bin/env bash
# All that is done on a lent GPU, in one call of under ten minutes: unpack, the tests marked gpu, the bench. Results lie under $OUT.
#
#   here:   python bench/gpu_wheels.py pack .wheels        (git ignores .wheels; take the folder along)
#   there:  bash bench/gpu_run.sh .wheels                  (what is left of the time limit, in seconds, as the second argument: default 570)
set -uo pipefail
cd "$(dirname "$0")/.."
WHEELS=${1:-.wheels} LIMIT=${2:-570} OUT=${OUT:-out/gpu} SITE=${SITE:-/tmp/afterimage-site} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
"$PYTHON" bench/gpu_wheels.py unpack "$WHEELS" "$SITE" || exit 2
export PYTHONPATH="$SITE:$PWD"
began=$SECONDS
timeout -k 5 150 "$PYTHON" -m pytest -m gpu -p no:cacheprovider --timeout 120 tests/gpu 2>&1 | tee "$OUT/gpu_tests.log" | tail -15
left=$((LIMIT - (SECONDS - began) - 15))
"$PYTHON" bench/gpu_live.py --json "$OUT/gpu_live.json" --seconds "$((left < 520 ? left : 520))" 2>&1 | tee "$OUT/gpu_live.log" | tail -60
