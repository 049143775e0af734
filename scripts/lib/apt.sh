# Sourced; for packages of Debian and Ubuntu, as root or through sudo.

# apt_problem PACKAGE...: says why they cannot be installed here, nothing where they can.
apt_problem() {
    if ! command -v apt-get >/dev/null; then
        echo "missing packages: $*, and this machine has no apt-get (Debian or Ubuntu is needed): install them by other means"
    elif ((EUID != 0)) && ! command -v sudo >/dev/null; then
        echo "missing packages: run as root: apt-get install $*"
    fi
}

# apt_get ARGUMENT...: a lock held by another apt (unattended upgrades) is waited for, up to five minutes.
apt_get() {
    local sudo=()
    ((EUID == 0)) || sudo=(sudo)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

# apt_update: the lists' lock, for which apt does not wait, is waited for too.
apt_update() {
    local said tries
    for ((tries = 0; tries < 30; ++tries)); do
        ((tries == 0)) || sleep 10
        said=$(apt_get update 2>&1) && break
        [[ $said == *"Could not get lock"* ]] || tries=30
    done
    echo "$said"
    ((tries < 30))
}

# apt_install [FLAG...] PACKAGE...
apt_install() { apt_update && apt_get install -y "$@"; }
