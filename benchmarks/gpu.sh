#!/usr/bin/env bash
# What waits for a GPU, in pieces of at most MINUTES (8) each that write to $OUT (runs/gpu):
#
#     bash benchmarks/gpu.sh tests    the tests marked gpu
#     bash benchmarks/gpu.sh rates    images/s, memory, share of the peak: full-size CIFAR-10 presets, plain and compiled
#     bash benchmarks/gpu.sh full     the full-size teachers' first STEPS (300) steps, through the command line
#     bash benchmarks/gpu.sh small    the small teacher and its students for STEPS (60,000) steps of 256; a piece that ran out of
#                                     time goes on when it is called again
#
# CIFAR-10's archive is looked for in $CMLAB_DATA (data). PYTHON names the interpreter, DEVICE the device, PRESETS other presets.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/gpu} python=${PYTHON:-python} device=${DEVICE:-cuda}
limit=(timeout --signal TERM --kill-after 30 "${MINUTES:-8}m")
[ $# = 0 ] || mkdir -p "$out"

case "${1:-}" in
tests)
    "${limit[@]}" "$python" -m pytest -m gpu tests/training/test_gpu.py 2>&1 | tee "$out/tests.log"
    ;;
rates)
    presets=${PRESETS:-cifar10-edm-ddpmpp cifar10-edm-cm cifar10-cd cifar10-ct cifar10-ict cifar10-ect cifar10-sct cifar10-small-edm}
    # shellcheck disable=SC2086
    "${limit[@]}" "$python" benchmarks/throughput.py $presets --device "$device" --precision bf16 --compile \
        --out "$out/rates.json" ${RATES:-} 2>&1 | tee "$out/rates.md"
    ;;
full)
    for preset in ${PRESETS:-cifar10-edm-ddpmpp cifar10-edm-cm}; do
        "${limit[@]}" "$python" -m cmlab train "$preset" --device "$device" --precision bf16 --steps "${STEPS:-300}" \
            --out "$out/full" --overwrite 2>&1 | tee "$out/$preset.log"
    done
    ;;
small)
    for preset in ${PRESETS:-cifar10-small-edm cifar10-small-cd cifar10-small-ict}; do
        case $preset in *-edm) own=(--halflife 0.5 --rampup 0.5) ;; *) own=(--ema 0.9995) ;; esac
        "${limit[@]}" "$python" -m cmlab train "$preset" --device "$device" --batch 256 --steps "${STEPS:-60000}" "${own[@]}" \
            --out runs --resume 2>&1 | tee -a "$out/$preset.log"
        cp "runs/$preset.safetensors" "$out/"
    done
    ;;
*)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
