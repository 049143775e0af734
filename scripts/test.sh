#!/bin/bash
# Runs every test that is built, plain and under sanitizers, those of kernels on the emulated device and under its race
# detector too, and the Python tests; the last line is `N passed, N failed`.
#
#   scripts/test.sh            all of them (`make test` builds them first)
#   scripts/test.sh REGEX      only the programs whose name matches, e.g. release.store
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,6s/^# \{0,1\}//p' scripts/test.sh
    exit 0
fi
filter=${1:-}

ROOT=$PWD
PYTHON=$ROOT/build/venv/bin/python
FOLDER=build/ctest
RESULTS=$ROOT/$FOLDER/results
TIMEOUT=3600  # seconds a program: machines of continuous integration can be ten times slower than idle ones

rm -rf "$FOLDER"
mkdir -p "$RESULTS"
programs=()

# The address sanitizer of g++ 12 hangs at random under kernels that give addresses 32 random bits (Ubuntu 24.04's).
fixed_addresses=()
! setarch -R true 2>/dev/null || fixed_addresses=(setarch -R)

# add NAME COMMAND...: one program as ctest sees it; run in the root, where tests look for ../shared/data.
add() {
    local name=$1 word
    shift
    [[ -z $filter || $name =~ $filter ]] || return 0
    programs+=("$name")
    [[ $name != sanitize.* ]] || set -- "${fixed_addresses[@]}" "$@"
    {
        printf 'add_test([=[%s]=]' "$name"
        for word; do printf ' [=[%s]=]' "$word"; done
        printf ')\nset_tests_properties([=[%s]=] PROPERTIES WORKING_DIRECTORY [=[%s]=])\n' "$name" "$ROOT"
    } >>"$FOLDER/CTestTestfile.cmake"
}

shopt -s nullglob
for source in tests/*_test.cpp; do
    test=$(basename "$source" .cpp)
    for variant in sanitize release; do  # the slow ones first
        add "$variant.$test" "$ROOT/build/$variant/tests/$test" "--gtest_output=xml:$RESULTS/$variant.$test.xml"
    done
done
for source in tests/cuda/*_test.cpp tests/emulation/emulator_test.cpp; do
    test=$(basename "$source" .cpp)
    for variant in sanitize release; do
        add "$variant.cuda.$test" "$ROOT/build/$variant/emulated/${source%.cpp}" \
            "--gtest_output=xml:$RESULTS/$variant.cuda.$test.xml"
    done
done
# The race detector takes up to 10 times as long and sees the same in small shapes: without cases that are named
# ...AtScale, without whole runs.
for source in tests/cuda/*_test.cpp tests/emulation/race_test.cpp; do
    test=$(basename "$source" .cpp)
    [[ $test != tune_test ]] || continue
    add "race.cuda.$test" "$ROOT/build/race/${source%.cpp}" "--gtest_filter=-*AtScale" \
        "--gtest_output=xml:$RESULTS/race.cuda.$test.xml"
done
for source in tests/python/*_test.py; do
    test=$(basename "$source" .py)
    add "python.$test" "$PYTHON" scripts/lib/run_unittest.py "$source" "$RESULTS/python.$test.json"
done
if ((${#programs[@]} == 0)); then
    echo "no test ran: no program matches '$filter'"
    echo "0 passed, 0 failed"
    exit 1
fi

# What of the caller's would change what a test sees: a make or git hook that called this, a locale that is not here, a
# proxy between a test and its own server.
unset MAKEFLAGS MAKELEVEL MFLAGS GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE
export LC_ALL=C.UTF-8 no_proxy=127.0.0.1 NO_PROXY=127.0.0.1
export OMP_WAIT_POLICY=passive  # two programs share the cores: waiting threads must not spin
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
failed=$FOLDER/Testing/Temporary/LastTestsFailed.log
(cd "$FOLDER" && ctest -j2 --timeout "$TIMEOUT" --output-on-failure --no-tests=error) || true
# `12:release.store_test` -> `release.store_test`
[[ ! -f $failed ]] || sed -i 's/^[0-9]*://' "$failed"
echo
"$PYTHON" scripts/lib/test_summary.py "$RESULTS" "$failed" "${programs[@]}"
