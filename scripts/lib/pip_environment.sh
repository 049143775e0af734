# Sourced. make_environment VENV PINS GIGABYTES MODULE...: a Python environment with the packages that PINS (and the
# files it includes by -r) name, made anew when those change; complete once the modules can be imported. GIGABYTES: what
# pip downloads and what it unpacks, side by side. Needs say and die.
make_environment() {
    local venv=$1 pins=$2 needed=$3 hash log=build/${1##*/}.log free included
    shift 3
    mapfile -t included < <(sed -n "s|^-r *|${pins%/*}/|p" "$pins")
    hash=$(cat "$pins" "${included[@]}" | sha256sum)
    [[ -f $venv/requirements.sha256 && $(<"$venv/requirements.sha256") == "$hash" ]] && return
    free=$(df --output=avail -BG build | tail -n 1 | tr -dc 0-9)
    ((free >= needed)) || die "build/: $free GB free, $venv needs $needed to install: free some"
    say "installing the packages of $pins into $venv (about 2.5 GB to download; once)"
    # --no-deps: the pins are complete, and what PyTorch asks for beyond them is only of use on a GPU.
    if ! { build/venv/bin/python -m venv --clear "$venv" && "$venv/bin/python" -m pip install \
        --disable-pip-version-check --no-input --no-deps --only-binary :all: -r "$pins" &&
        "$venv/bin/python" -c 'import importlib, sys
for name in sys.argv[1:]: importlib.import_module(name)' "$@"; } >"$log" 2>&1; then
        grep -E '^ERROR:' "$log" >&2 || tail -n 3 "$log" >&2
        die "$venv could not be made (all of the output: $log)"
    fi
    echo "$hash" >"$venv/requirements.sha256"
}
