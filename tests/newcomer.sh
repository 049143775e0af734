#!/bin/bash
# The README's commands in a bare Debian 12, as someone who has just heard of pvtune would type them.
#
#   tests/newcomer.sh          set-up, build, and the commands under "Your own model" on a tiny random model
#   tests/newcomer.sh --full   the commands under "Two commands" too: the whole demo and all tests
#
# Makes a folder with debootstrap (git, make and python3, nothing else), clones this repository's last commit into it and
# works there under chroot; the folder is removed at the end. Needs root, 4 GB of disk, and the package mirror, the
# certificates and pip's settings of this machine. FOLDER=path keeps the Debian for another run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
-h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
"" | --full) full=${1:-} ;;
*) echo "newcomer: '$1' is no flag of this script: tests/newcomer.sh --help" >&2; exit 2 ;;
esac

say() { printf '%s newcomer: %s\n' "$(date +%H:%M:%S)" "$*"; }
die() { echo "newcomer: $*" >&2; exit 2; }

((EUID == 0)) || die "chroot and debootstrap need root: run it with sudo"
if ! command -v debootstrap >/dev/null; then
    apt-get install -y -q --no-install-recommends debootstrap >/dev/null || die "install debootstrap first"
fi
mirror=${MIRROR:-$(apt-get indextargets --format '$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)' |
    awk '$1 == "Packages" && $2 == "bookworm" && $3 == "main" { print $4; exit }')}
[[ -n $mirror ]] || die "this machine's apt has no Debian 12 (bookworm) in its sources: name a mirror with MIRROR=URL"

root=${FOLDER:-$(mktemp -d "${TMPDIR:-/tmp}/newcomer.XXXXXX")}
cleanup() {
    umount -q "$root/proc" || true
    [[ -n ${FOLDER:-} ]] || rm -rf --one-file-system "$root"
}
trap cleanup EXIT

if [[ ! -x $root/usr/bin/git ]]; then
    say "Debian 12 into $root"
    debootstrap --variant=minbase --include=git,make,python3,ca-certificates bookworm "$root" "$mirror" \
        >"$root.log" 2>&1 || die "debootstrap failed: $(tail -n 1 "$root.log")"
    rm -f "$root.log"
fi
mkdir -p "$root/etc/apt/apt.conf.d"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
if [[ -f /etc/ssl/certs/ca-certificates.crt ]]; then cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"; fi
if [[ -f /etc/pip.conf ]]; then cp /etc/pip.conf "$root/etc/"; fi
apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https)::' >"$root/etc/apt/apt.conf.d/90machine" || true
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"

# in_debian SCRIPT: bash in the clone, with what a login gives and the ways to the network.
in_debian() {
    local network=() name
    for name in http_proxy https_proxy no_proxy PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CERT; do
        [[ -z ${!name:-} ]] || network+=("$name=${!name}")
    done
    chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin "${network[@]}" \
        nice -n "${NICE:-0}" /bin/bash -euo pipefail -c "cd /pvtune; $1"
}

# step WORDS SCRIPT: says how long it took; a failure ends the test with the last lines of what was printed.
step() {
    local log=$root/root/step.log start=$SECONDS
    say "$1"
    if ! in_debian "$2" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        say "FAILED: $1"
        exit 1
    fi
    tail -n 1 "$log"
    say "$1: $((SECONDS - start)) s"
}

# commands_under HEADING: the first fenced block behind it in the README.
commands_under() {
    awk -v heading="## $1" '$0 == heading { found = 1 } found && /^```/ { if (inside) exit; inside = 1; next } inside' README.md
}

rm -rf "$root/pvtune"
git clone --quiet --no-hardlinks . "$root/pvtune"
own=$(commands_under "Your own model")
two=$(commands_under "Two commands")
[[ -n $own && -n $two ]] || die "README.md has no commands under 'Two commands' or 'Your own model'"

step "make setup" "make setup"
step "make build" "make build"
step "make setup, when all is there" "make setup"
step "a tiny model" "cd tests/python && ../../build/venv/bin/python tiny_model.py ../../HF_FOLDER &&
    for i in {1..3000}; do echo \"Line \$i of a book that nobody wrote, for \$((i * 7919 % 1000)) readers.\"; done >../../book.txt &&
    for i in {1..500}; do echo \"Readers \$((i * 7919 % 1000)) and \$i have another book.\"; done >../../another.txt"
step "the commands under 'Your own model'" "$own"
step "what they made" "build/pvtune inspect tuned.h5 --verify && cmp {HF_FOLDER,tuned-aqlm}/tokenizer.json &&
    build/pvtune import --from tuned-aqlm --out exported.h5 && build/pvtune inspect exported.h5 --verify"
if [[ -n $full ]]; then
    while read -r command; do step "${command%%  *}" "${command%%#*}"; done <<<"$two"
fi
say "every command worked"
