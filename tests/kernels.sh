#!/usr/bin/env bash
# The tests of numbers with the kernels of other processors, which add in another order.
# Usage: tests/kernels.sh [CAPABILITY:ISA:THREADS ...], of PyTorch's own kernels, of oneDNN's (unset:
# the processor's best; a processor uses none that it lacks) and of threads. Fails if one fails.
# FILES="tests/test_losses.py …" runs these alone.
set -uo pipefail
cd "$(dirname "$0")/.."

NUMBERS=(
  tests/attacks tests/attribution tests/dissection tests/features tests/prepared
  tests/interop/test_attacks.py tests/interop/test_attributions.py tests/models/test_zoo.py
  tests/test_consistency.py tests/test_evaluation.py
  tests/test_fid.py tests/test_inception.py tests/test_losses.py tests/test_maps.py tests/test_mixing.py
  tests/test_objectives.py tests/test_stored.py
  tests/test_threat.py tests/test_trained.py
  tests/training/test_processes.py
)
ALL=(
  default:SSE41:1 default:AVX2:2 default:AVX512_CORE:1 default:unset:2
  avx2:SSE41:2 avx2:AVX2:1 avx2:AVX512_CORE:2 avx2:unset:1
)
[ -z "${FILES:-}" ] || read -ra NUMBERS <<<"$FILES"
log=$(mktemp)
cores=$(getconf _NPROCESSORS_ONLN)
failed=0
[ $# -gt 0 ] || set -- "${ALL[@]}"
for setting in "$@"; do
  IFS=: read -r capability isa threads <<<"$setting"
  variables=(ATEN_CPU_CAPABILITY="$capability" OMP_NUM_THREADS="$threads")
  [ "$isa" = unset ] || variables+=(ONEDNN_MAX_CPU_ISA="$isa")
  workers=$((cores / threads > 0 ? cores / threads : 1)) # more would wait for one another
  if env "${variables[@]}" .venv/bin/pytest --numprocesses $workers "${NUMBERS[@]}" >"$log" 2>&1; then
    echo "$setting: $(tail -n 1 "$log")"
  else
    cat "$log"
    echo "$setting: failed"
    failed=1
  fi
done
rm "$log"
exit $failed
