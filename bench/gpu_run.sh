#!/usr/bin/env bash
# What is done on a lent GPU, in one call of under ten minutes: unpack, the tests marked gpu, the bench. Results lie under $OUT.
#
#   here:   python bench/gpu_wheels.py pack .wheels         git ignores .wheels; take the folder along
#   there:  bash bench/gpu_run.sh .wheels                   tests, then the bench in the time that is left
#           bash bench/gpu_run.sh .wheels tests             or in two calls, each with all the time
#           bash bench/gpu_run.sh .wheels bench 540         seconds for all of it; 570 by default
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
WHEELS=${1:-.wheels} WHAT=${2:-all} LIMIT=${3:-570} OUT=${OUT:-out/gpu} SITE=${SITE:-$(mktemp -d)} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
"$PYTHON" bench/gpu_wheels.py unpack "$WHEELS" "$SITE" || exit 2
export PYTHONPATH="$SITE:$PWD"
if [ "$WHAT" != bench ]; then
  mapfile -t files < <(grep -rl 'mark\.gpu' tests --include='test_*.py')
  most=$((LIMIT - SECONDS - 10)); [ "$WHAT" = all ] && most=150
  timeout -k 5 "$most" "$PYTHON" -m pytest -m gpu -p no:cacheprovider -p no:benchmark --continue-on-collection-errors "${files[@]}" 2>&1 \
    | tee "$OUT/gpu_tests.log" | tail -25
fi
if [ "$WHAT" != tests ]; then
  "$PYTHON" bench/gpu_live.py --json "$OUT/gpu_live.json" --seconds "$(((LIMIT - SECONDS - 10) * 20 / 23))" 2>&1 \
    | tee "$OUT/gpu_live.log" | tail -60
fi
