#!/bin/bash
# Sets up what pvtune needs on Debian or Ubuntu; does nothing where all is there already.
#   - the packages of third_party/packages.txt, through apt (with sudo when not root)
#   - build/venv, a Python environment with the pinned versions of third_party/requirements.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,4s/^# \{0,1\}//p' scripts/setup.sh
    exit 0
fi

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 2; }
source scripts/lib/apt.sh

# Only one set-up at a time: two `make` runs may start together.
mkdir -p build
exec 9>build/setup.lock
command -v flock >/dev/null && flock 9

install_packages() {
    local wanted missing=() package status problem
    mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' third_party/packages.txt)
    for package in "${wanted[@]}"; do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $status == installed ]] || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        say "packages: all ${#wanted[@]} are there"
        return
    fi
    problem=$(apt_problem "${missing[@]}")
    [[ -z $problem ]] || die "$problem"
    say "packages: installing ${missing[*]}"
    local log=build/setup-apt.log
    if ! apt_install --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
        grep -E '^(E|W):' "$log" >&2 || tail -n 5 "$log" >&2
        die "packages: apt-get could not install ${missing[*]} (all of its output: $log)"
    fi
    say "packages: installed ${#missing[@]}"
}

# The first Python of at least 3.11, the oldest that the pinned versions support.
find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

make_environment() {
    local venv=build/venv stamp=build/venv/requirements.sha256 log=build/setup-pip.log hash python
    hash=$(sha256sum <third_party/requirements.txt)
    if [[ -f $stamp && $(<"$stamp") == "$hash" ]] && "$venv/bin/python" -c 'import h5py, tokenizers' 2>/dev/null; then
        say "Python: $venv is up to date"
        return
    fi
    python=$(find_python) || die "Python: none of at least 3.11 with venv here: install python3 and python3-venv"
    say "Python: making $venv with $("$python" --version) and $(grep -c '==' third_party/requirements.txt) pinned packages"
    rm -f "$stamp"
    if ! { "$python" -m venv --clear "$venv" && "$venv/bin/python" -m pip install --disable-pip-version-check \
        --no-input --only-binary :all: -r third_party/requirements.txt; } >"$log" 2>&1; then
        grep -E '^ERROR:' "$log" >&2 || tail -n 5 "$log" >&2
        die "Python: pip could not install third_party/requirements.txt (all of its output: $log)"
    fi
    echo "$hash" >"$stamp"
    say "Python: $venv is ready"
}

install_packages
make_environment
touch build/setup.done
