#!/usr/bin/env bash
# What waits for a GPU: piece after piece, each once, until MINUTES (9) have passed. Called again, it goes on where it stopped.
#
#     bash benchmarks/gpu.sh list             the pieces with their commands, and which of them are done
#     bash benchmarks/gpu.sh run [PATTERN]    the pieces whose names match, 'full-*' say; all by default
#     bash benchmarks/gpu.sh dry-run [PATTERN]    the same on the CPU, of toy networks, in some minutes
#
#     tests          the tests marked gpu
#     table          benchmarks/run.py on the GPU, batch 16 and 512
#     speed-PRESET   the same of a preset's network with the preset's batch, plain and compiled, and the hours of its whole run
#     scaling        batch, image side, number of processes
#     full-PRESET    the full-size teachers' first STEPS (300) steps, through the command line
#     model-PRESET   the small teacher and its students for MODEL_STEPS (60,000) steps of 256
#
# Logs and results are in $OUT (runs/gpu, of a dry run runs/gpu-dry). CIFAR-10's archive is looked for in $CMLAB_DATA (data). PYTHON
# names the interpreter, DEVICE the device, PRESETS other presets.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-} pattern=${2:-*}
case "$mode" in
list | run) out=${OUT:-runs/gpu} device=${DEVICE:-cuda} ;;
dry-run) out=${OUT:-runs/gpu-dry} device=${DEVICE:-cpu} ;;
*)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
python=${PYTHON:-python} end=$((SECONDS + 60 * ${MINUTES:-9}))

piece() { # NAME COMMAND...: once, and no longer than is left
    local name=$1 left=$((end - SECONDS)) status=0
    shift
    # shellcheck disable=SC2254
    case "$name" in $pattern) ;; *) return 0 ;; esac
    if [ "$mode" = list ]; then
        [ -e "$out/$name.done" ] && echo "$name (done): $*" || echo "$name: $*"
    elif [ ! -e "$out/$name.done" ]; then
        [ $left -gt 0 ] || again "before $name"
        mkdir -p "$out"
        echo "$name: $*" | tee -a "$out/$name.log"
        timeout --signal TERM --kill-after 30 "$left" "$@" 2>&1 | tee -a "$out/$name.log" || status=$?
        [ $status != 124 ] && [ $status != 143 ] && [ $status != 137 ] || again "in $name"
        [ $status = 0 ] || { echo "gpu.sh: $name failed ($status), see $out/$name.log" >&2 && failed+=" $name"; return 0; }
        touch "$out/$name.done"
    fi
}

again() {
    echo "gpu.sh: the time is over $1: call again to go on" >&2
    exit 124
}

failed="" collect=() tiny=(--compile) toy=()
if [ "$mode" = dry-run ]; then
    collect=(--collect-only) tiny=(--tiny --rounds 1) STEPS=2 MODEL_STEPS=4
    toy=(--data digits-color --batch 8 --network.channels 8 --network.blocks 1)
fi
speed=("$python" benchmarks/run.py --device "$device" "${tiny[@]}")
train=("$python" -m cmlab train)

piece tests "$python" -m pytest -m gpu tests/training/test_gpu.py "${collect[@]}"
piece table "${speed[@]}" --out "$out/table"
piece table-512 "${speed[@]}" --batch 512 --out "$out/table-512"
for preset in ${PRESETS:-cifar10-edm-ddpmpp cifar10-edm-cm cifar10-cd cifar10-ct cifar10-ict cifar10-ect cifar10-sct cifar10-small-edm}; do
    piece "speed-$preset" "${speed[@]}" --preset "$preset" --out "$out/speed-$preset"
done
piece scaling "${speed[@]}" --scaling --precision bf16 --out "$out/scaling"
for preset in ${PRESETS:-cifar10-edm-ddpmpp cifar10-edm-cm}; do
    piece "full-$preset" "${train[@]}" "$preset" --device "$device" --precision bf16 --steps "${STEPS:-300}" --out "$out/full" \
        --resume "${toy[@]}"
done
teacher=$out/models/cifar10-small-edm.safetensors
for preset in ${PRESETS:-cifar10-small-edm cifar10-small-cd cifar10-small-ict}; do
    case $preset in
    *-edm) own=(--halflife 0.5 --rampup 0.5) ;;
    *-cd) own=(--ema 0.9995 --init "$teacher" --teacher "$teacher") ;;
    *) own=(--ema 0.9995 --init "$teacher") ;;
    esac
    piece "model-$preset" "${train[@]}" "$preset" --device "$device" --batch 256 --steps "${MODEL_STEPS:-60000}" "${own[@]}" \
        --out "$out/models" --resume "${toy[@]}"
done
[ -z "$failed" ] || { echo "gpu.sh: failed:$failed" >&2 && exit 1; }
[ "$mode" = list ] || echo "gpu.sh: all pieces that match '$pattern' are done, see $out"
