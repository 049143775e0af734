#!/usr/bin/env bash
# Fuzzes every reader of files: fuzz.sh [seconds for each target (60)] [targets (all)]. Builds into build/fuzz with
# clang's libFuzzer under address and undefined-behaviour sanitizers; a crash is kept there and gives the status 1.
# The target `files` is another: 10,000 mutated safetensors, HDF5 and config files through build/pvtune as a whole, which
# may refuse them but must not crash, hang or leave a file (tests/fuzz/mutated_files.py; about five minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,5s/^# \{0,1\}//p' scripts/fuzz.sh
    exit 0
fi

seconds=${1:-60}
shift || true
if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "fuzz: '$seconds' is no number of seconds: fuzz.sh [seconds] [targets]" >&2
    exit 2
fi
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(files store safetensors config)
status=0 libfuzzer=()
for target in "${targets[@]}"; do
    if [[ $target != files && ! -e tests/fuzz/${target}_fuzz.cpp ]]; then
        echo "fuzz: no target '$target': there are files, store, safetensors and config" >&2
        exit 2
    fi
    [[ $target == files ]] || libfuzzer+=("$target")
done
if [[ " ${targets[*]} " == *" files "* ]]; then
    [[ -x build/pvtune ]] || { echo "fuzz: no build/pvtune: run \`make build\` first" >&2; exit 2; }
    build/venv/bin/python tests/fuzz/mutated_files.py || status=1
    ((${#libfuzzer[@]})) || exit $status
fi

out=build/fuzz
mkdir -p "$out"

has_fuzzer() {
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
        clang++ -x c++ -fsanitize=fuzzer,address,undefined -o "$out/probe" - >"$out/probe.log" 2>&1
}

if ! has_fuzzer; then
    echo "fuzz: installing clang and its sanitizers"
    source scripts/lib/apt.sh
    problem=$(apt_problem clang libclang-rt-dev)
    [[ -z $problem ]] || { echo "fuzz: $problem" >&2; exit 2; }
    # Where clang brings its own run-time library there is no package of that name.
    for packages in "clang libclang-rt-dev" "clang"; do
        # shellcheck disable=SC2086
        apt_install $packages >"$out/install.log" 2>&1 && break
    done
    if ! has_fuzzer; then
        echo "fuzz: clang++ has no libFuzzer (see $out/probe.log, $out/install.log): install clang, libclang-rt-dev" >&2
        exit 2
    fi
fi

flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all -I.)
read -ra hdf5_flags < <(pkg-config --cflags hdf5)
read -ra libraries < <(pkg-config --libs hdf5)
flags+=("${hdf5_flags[@]}")
libraries+=(-lxxhash)
# clang before 15 knows the half type of x86 by its older name only.
if ! echo '_Float16 half;' | clang++ -x c++ -fsyntax-only - 2>/dev/null; then
    flags+=(-D_Float16=__fp16 -Xclang -fallow-half-arguments-and-returns)
fi

build() {  # sources: compiles them and adds their objects to the array `objects`
    local source object
    for source in "$@"; do
        object="$out/objects/${source%.cpp}.o"
        objects+=("$object")
        mkdir -p "$(dirname "$object")"
        clang++ "${flags[@]}" -fsanitize=fuzzer-no-link,address,undefined -c -o "$object" "$source"
    done
}

echo "fuzz: building"
objects=()
build io/*.cpp
io_objects=("${objects[@]}")
build tests/fuzz/seeds.cpp
clang++ -fsanitize=address,undefined -o "$out/seeds" "${objects[@]}" "${libraries[@]}"
for target in "${libfuzzer[@]}"; do
    objects=("${io_objects[@]}")
    build "tests/fuzz/${target}_fuzz.cpp"
    if [[ $target == config ]]; then build host/model/config*.cpp host/model/rotary.cpp host/model/families/*.cpp host/common/text.cpp; fi
    clang++ -fsanitize=fuzzer,address,undefined -o "$out/${target}_fuzz" "${objects[@]}" "${libraries[@]}"
done

"$out/seeds" "$out/seed_inputs"
for target in "${libfuzzer[@]}"; do
    mkdir -p "$out/corpus/$target"
    log="$out/$target.log"
    # Generous limits for one input: tighter ones would report the sanitizers' own overhead on a busy machine.
    if "$out/${target}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=100000 \
        -artifact_prefix="$out/$target-" -print_final_stats=1 "$out/corpus/$target" "$out/seed_inputs/$target" \
        >"$log" 2>&1; then
        runs=$(sed -nE 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz: $target: no crash in $runs inputs, $seconds s"
    else
        status=1
        reason=$(grep -m1 -E 'ERROR: |runtime error: |ALARM|deadly signal' "$log" || tail -n 1 "$log")
        echo "fuzz: $target: CRASH ($reason); input and log in $out/$target*" >&2
    fi
done
exit $status
