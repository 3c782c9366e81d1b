#!/usr/bin/env bash
# Everything that a GPU can tell about flashnas, in one file to attach to an issue. `make gpu` runs it:
#
#     tools/gpu_bundle.sh vllm ~/vllm/bin/python   # by vLLM alone: tables of families
#     tools/gpu_bundle.sh cuda                     # flashnas' own code on the first CUDA device; `cpu` tries it
#     tools/gpu_bundle.sh constraints              # the options by which pip takes a torch that the driver can use
#
# Each step has a limit and a log. A step that fails or exceeds its limit is kept, and the next one follows; without `product`,
# a product of two matrices on the device, nothing else can succeed, and the run ends. The same command again continues, after
# Ctrl-C too: steps that passed at this commit are kept, all others run again; `rm -r gpu_run` begins anew. steps.txt of the
# bundle has what each step came to. Left out are serial numbers of the GPU, the name of the machine, and the home folder.
set -uo pipefail
set -m # a step is a group of processes, which Ctrl-C reaches through `stop`
cd "$(dirname "$0")/.."
what=${1:?vllm PYTHON, cuda, cpu or constraints} vllm=${2:-}
python=${PYTHON:-.venv/bin/python} out=${OUT:-gpu_run} bundle=${BUNDLE:-$PWD/flashnas_gpu.zip}

constraints() {
    local driver
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | grep -oE -m 1 '^[0-9]+') || return 0
    # the first major version of the driver that runs programs built for CUDA 13
    if [ "$driver" -ge 580 ]; then echo "-c constraints/cuda13.txt"; return; fi
    echo "-c constraints/cuda12.txt"
    # PyPI's wheels of torch before 2.11 are CPU builds for aarch64
    [ "$(uname -m)" != aarch64 ] || echo "--extra-index-url https://download.pytorch.org/whl/cu128"
}
if [ "$what" = constraints ]; then constraints; exit; fi

install() { # what this machine has to compile and hold kernels
    uname -srm
    git describe --always --dirty
    "$python" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader || echo "no GPU is found: install the driver"
    "$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")" --version
    "${CC:-cc}" --version || echo "Triton compiles its launcher: install gcc"
    ls "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" || echo "install the headers of Python, such as python3.12-dev"
    free -g
    df -h . "$HOME" /dev/shm
    nvidia-smi -q | grep -viE 'serial number|uuid|asset tag|bus id|board part|\bpid\b|process name'
    "$python" -m pip list --format=freeze
}

product() {
    "$python" - "$what" <<'PY' && return
import sys, torch
print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda or '(none): pip uninstall torch'}")
x = torch.ones(256, 256, device=sys.argv[1])
found = float((x @ x).sum())
print(f"a product on {sys.argv[1]} adds up to {found:.0f}; {256**3} is right")
sys.exit(found != 256**3)
PY
    echo "install the torch of the driver: pip install $(constraints | tr '\n' ' ') -e '.[gpu]'"
    return 1
}

tests() { # of which all may be skipped, which is a failure
    "$python" -m pytest tests/gpu -p no:cacheprovider -m "$([ "$what" = cuda ] || echo 'not ')gpu" "$@" | tee /dev/stderr | grep -q '[0-9] passed'
}

warm_up() { # Triton keeps what it has compiled, several kernels at a time; what fla chose by timings is not kept
    FLA_CACHE_RESULTS=0 tests -n "$(($(nproc) > 2 ? ($(nproc) < 17 ? $(nproc) - 1 : 16) : 1))" --dist worksteal --tb=no
}

if [ -n "${STEP:-}" ]; then "$STEP"; exit; fi # the functions above, with a limit
stopped=0 failed=0 running=
stop() { stopped=1; [ -z "$running" ] || kill -INT "$running"; }
trap stop INT TERM
mkdir -p "$out"
[ -e "$out/steps.txt" ] || [ -z "$(ls "$out")" ] || { echo "$out: must be a new folder, or one of an earlier call"; exit 2; }
: >"$out/steps.txt"
state="$what $(git describe --always --dirty)"

step() { # NAME, the seconds that it may take, the command
    local name=$1 limit=$2 began=$SECONDS code=0 said=passed
    shift 2
    [ "$stopped" = 0 ] || return 1
    [ "$(cat "$out/$name.passed" 2>/dev/null)" != "$state" ] || { echo "$name passed before" | tee -a "$out/steps.txt"; return 0; }
    printf '%-26sat most %d min\n' "$name" $((limit / 60))
    timeout --signal INT --kill-after 20 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null &
    running=$!
    [ "$stopped" = 0 ] || stop
    # `wait` also ends at a signal
    while kill -0 "$running" 2>/dev/null; do wait "$running"; code=$?; done
    running=
    if [ "$stopped" = 1 ]; then said=interrupted
    elif [ "$code" = 124 ] || [ "$code" = 137 ]; then said="over its limit"
    elif [ "$code" != 0 ]; then said=failed; fi
    [ "$said" != passed ] || echo "$state" >"$out/$name.passed"
    [ "$said" = passed ] || failed=1
    printf '%-26s%s after %d s: %s\n' "$name" "$said" $((SECONDS - began)) "$*" >>"$out/steps.txt"
    tail -n 1 "$out/steps.txt"
    [ "$said" = passed ]
}
own() { step "$1" "$2" env STEP="$1" tools/gpu_bundle.sh "$what"; }
flashnas() { step "$1" "$2" "$python" -m flashnas.cli.main "${@:3}"; }

engine() { # for each family a table by vLLM, and predictions of networks that the fit has not seen
    own install 300
    for family in ${FAMILIES:-granite nemotron_h qwen3_5}; do
        local name given
        name=$(basename "$family" .yaml)
        given=(--space "$family" --vllm-python "$vllm" --workload decode-8k --json)
        flashnas "profile_$name" 5400 profile --runtime vllm "${given[@]}" --workload chat --workload prefill-2k --out "$out/$name"
        flashnas "validate_$name" 1800 validate "${given[@]}" --table "$out/$name" --count "${VALIDATED:-8}"
    done
}

own_code() {
    own install 300
    own product 120 || { cat "$out/product.log"; return; }
    own warm_up 2700
    flashnas doctor 1800 doctor --device "$what" --json
    own tests 3600
    local space network
    local spaces=(tiny chat "$out/two_widths.yaml" decode-1k) training=(--steps=100)
    # with all seven widths, kernels are compiled for an hour
    sed 's/^widths: .*/widths: [1024, 2048]/' search_spaces/nemotron_flash.yaml >"$out/two_widths.yaml"
    if [ "$what" = cpu ]; then
        spaces=(tiny batch=1,prompt=16,generated=8)
        training=(--steps=10 --sequence-tokens=64 --batch-sequences=4 --micro-batch-sequences=4)
    fi
    for ((i = 0; i < ${#spaces[@]}; i += 2)); do
        space=(--space "${spaces[i]}" --workload "${spaces[i + 1]}" --json)
        flashnas "profile_$((i / 2))" 1200 profile "${space[@]}" --device "$what" --out "$out/table"
        flashnas "validate_$((i / 2))" 600 validate "${space[@]}" --table "$out/table" --count 4
    done
    for mixer in a m2 d gd kda; do
        network="1280(vocab=32768): 8x($mixer f)"
        [ "$what" = cuda ] || network="256(vocab=512): $mixer f"
        step "train_$mixer" 600 "$python" benchmarks/training_steps.py "$network" --device "$what" "${training[@]}"
    done
}

if [ "$what" = vllm ]; then engine; else own_code; fi

packed=$(mktemp -d)
(cd "$out" && find . -type f ! -name '*.lock' ! -name '*.passed' -size -20M -exec cp --parents -t "$packed" {} +)
find "$packed" -type f ! -name '*.parquet' -exec sed -i "s|$PWD\b|.|g; s|${HOME%/}/|~/|g; s/hostname=\"[^\"]*\"/hostname=\"\"/" {} +
(cd "$packed" && rm -f "$bundle" && "$(cd "$OLDPWD" && realpath -s "$python")" -m zipfile -c "$bundle" ./*)
rm -r "$packed"
echo "$bundle holds all results and logs, steps.txt what each step came to."
if [ "$stopped" = 1 ]; then echo "The same command continues."; exit 130; fi
echo "Please attach it to an issue, also if steps failed."
exit "$failed"
