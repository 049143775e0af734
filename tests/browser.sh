#!/bin/bash
# Tests the page of a run in a headless browser; installs Debian's chromium where there is none. PVTUNE_BROWSER names another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z ${PVTUNE_BROWSER:-} ]] && ! command -v chromium google-chrome >/dev/null; then
    echo "browser: installing chromium"
    source scripts/lib/apt.sh
    problem=$(apt_problem chromium)
    [[ -z $problem ]] || { echo "browser: $problem, or name a browser with PVTUNE_BROWSER=path" >&2; exit 2; }
    apt_install --no-install-recommends chromium >/dev/null ||
        { echo "browser: apt-get could not install chromium: name a browser with PVTUNE_BROWSER=path" >&2; exit 2; }
fi
exec build/venv/bin/python tests/python/run_page_test.py Browser
