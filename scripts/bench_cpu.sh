#!/bin/bash
# Times evaluation and a tuning step of SmolLM2-135M in PyTorch and in pvtune, in turns, on this machine.
#   scripts/bench_cpu.sh [--rounds N] [--repeats N] [--steps N] [--threads N] [--precision bf16|f32] [--text FILE]
# Makes the PyTorch environment build/torch-venv (4.1 GB) at the first run. Leaves out/bench-cpu.json and a table.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "bench-cpu: $*" >&2; }
die() { say "$*"; exit 2; }
source scripts/lib/apt.sh
source scripts/lib/pip_environment.sh

rounds=2 repeats=3 steps=4 threads=$(nproc) precisions=(bf16 f32) text=()
while (($#)); do
    case $1 in
        -h | --help) sed -n '2,4s/^# \{0,1\}//p' scripts/bench_cpu.sh; exit 0 ;;
        --rounds | --repeats | --steps | --threads)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "$1 ${2:-}: a number of at least 1 is needed"
            declare "${1#--}=$2" ;;
        --precision)
            [[ ${2:-} == bf16 || ${2:-} == f32 ]] || die "$1 ${2:-}: there is bf16 and f32"
            precisions=("$2") ;;
        --text)
            file=${2:-}
            [[ $file == /* ]] || file=$here/$file
            [[ -f $file && -r $file ]] || die "--text ${2:-}: no such file"
            text=("$file") ;;
        *) die "unknown argument $1 (see --help)" ;;
    esac
    shift 2
done

python=build/venv/bin/python venv=build/torch-venv work=out/bench-cpu
[[ -x build/pvtune ]] || die "build/pvtune is not there: run make build"
[[ -x $python ]] || die "$python is not there: run make setup"
mkdir -p "$work/runs"

# torch.compile makes PyTorch up to a third faster and needs Python's headers.
install_headers() {
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' && return
    say "installing python3-dev, for torch.compile"
    [[ -z $(apt_problem python3-dev) ]] && apt_install --no-install-recommends python3-dev >build/torch-apt.log 2>&1 ||
        say "no Python headers and python3-dev could not be installed: PyTorch runs without torch.compile"
}

# The demo's model and a text's tokens; the demo's own folder is used if it ran.
prepare_inputs() {
    model=out/demo/hf
    if [[ ! -f $model/model.safetensors ]]; then
        model=$work/model
        if [[ ! -f $model/model.safetensors ]]; then
            "$python" scripts/demo_model.py --out "$work/model.gguf" >&2
            "$python" scripts/gguf_to_hf.py --from "$work/model.gguf" --out "$model" >&2
        fi
    fi
    if ((${#text[@]} == 0)); then
        text=(../shared/data/wikitext2-valid.txt)
        [[ -r ${text[0]} ]] || text=(/usr/share/common-licenses/*GPL-[123])  # of every Debian; speed does not depend on it
    fi
    "$python" scripts/tokenize.py --tokenizer "$model/tokenizer.json" --text "${text[@]}" --out "$work/tokens.h5" >&2
    if [[ ! $work/quantized.h5 -nt build/pvtune ]]; then
        build/pvtune import --from "$model" --out "$work/model.h5" >&2
        build/pvtune quantize --model "$work/model.h5" --representation aqlm --codebooks 2 --code-bits 8 --group 8 \
            --threads "$threads" --out "$work/quantized.h5" >&2
    fi
}

# timed NAME COMMAND...: runs it and keeps its JSON result, seconds and peak memory as runs/NAME.json.
timed() {
    local name=$1
    shift
    say "$name"
    "$python" scripts/demo_phase.py --out "$work/runs/$name.json" -- "$@" >/dev/null || die "$name failed: $*"
}

pytorch() { # round precision measurement
    timed "$1-pytorch-$3-$2" "$venv/bin/python" scripts/baseline_torch.py --model "$model" --tokens "$work/tokens.h5" \
        --measure "$3" --precision "$2" --repeats "$repeats" --threads "$threads" --windows 4
}

install_headers  # first, as sudo may ask for a password
make_environment "$venv" third_party/requirements-torch.txt 8 torch h5py safetensors
model=''
prepare_inputs
rm -f "$work"/runs/*.json "$work"/runs/*.jsonl
export TORCHINDUCTOR_CACHE_DIR=$PWD/build/torch-cache

for ((round = 1; round <= rounds; round++)); do
    for precision in "${precisions[@]}"; do
        common=(--precision "$precision" --threads "$threads" --ctx 1024 --json --quiet)
        pytorch "$round" "$precision" eval
        # More windows than PyTorch's: its rate is of a process that has warmed up, ours counts the first window too.
        timed "$round-pvtune-eval-$precision" build/pvtune eval --model "$work/model.h5" --tokens "$work/tokens.h5" \
            --windows 12 "${common[@]}"
        pytorch "$round" "$precision" gradients
        timed "$round-pvtune-step-$precision" build/pvtune tune --model "$work/quantized.h5" --teacher "$work/model.h5" \
            --tokens "$work/tokens.h5" --strategy pv-ste --steps "$steps" --batch 2 --out "$work/tuned.h5" \
            --log "$work/runs/$round-$precision.jsonl" "${common[@]}"
        rm -f "$work/tuned.h5"
        pytorch "$round" "$precision" step
    done
done
"$python" scripts/baseline/table.py --runs "$work/runs" --out out/bench-cpu.json
