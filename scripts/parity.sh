#!/bin/bash
# Compares pvtune with PyTorch, transformers, llama.cpp: runs tests/parity/*_parity.py; the last line is `N passed, N failed`.
#   scripts/parity.sh            all of them (`make parity` builds pvtune first)
#   scripts/parity.sh REGEX      only the files whose name matches, e.g. famil
#   scripts/parity.sh --environment   only make the Python environment, build/parity-venv (5 GB), as the first run does
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "parity: $*" >&2; }
die() { say "$*"; exit 2; }

case ${1:-} in
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' scripts/parity.sh; exit 0 ;;
    --environment) ;;
    -*) die "unknown argument $1 (see --help)" ;;
esac
[[ -x build/venv/bin/python ]] || die "build/venv/bin/python is not there: run make setup"
source scripts/lib/pip_environment.sh
make_environment build/parity-venv third_party/requirements-parity.txt 10 torch transformers h5py gguf xxhash xllamacpp gptqmodel
[[ ${1:-} != --environment ]] || exit 0
[[ -x build/pvtune ]] || die "build/pvtune is not there: run make build"

filter=${1:-}
python=$PWD/build/parity-venv/bin/python
results=$PWD/build/parity-results
failed=$results/failed
rm -rf "$results"
mkdir -p "$results"
touch "$failed"
export OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
programs=()
shopt -s nullglob
for source in tests/parity/*_parity.py; do
    name=$(basename "$source" .py)
    [[ -z $filter || $name =~ $filter ]] || continue
    programs+=("$name")
    "$python" scripts/lib/run_unittest.py "$source" "$results/$name.json" || echo "$name" >>"$failed"
done
((${#programs[@]})) || die "no file of tests/parity matches '$filter'"
echo
"$python" scripts/lib/test_summary.py "$results" "$failed" "${programs[@]}"
