#!/bin/sh
# Installs what `make demo` or `make test` needs from the system's packages, or says what is missing.
# Usage: docs/setup.sh demo|test
set -eu

purpose=${1:?demo or test}
missing=
need() { # program package
    command -v "$1" > /dev/null 2>&1 || missing="$missing $2"
}

if ! command -v cargo > /dev/null 2>&1; then
    echo "capstan: Rust is missing: no cargo in PATH. Install it with rustup (https://rustup.rs)." >&2
    exit 1
fi
need cc gcc
need curl curl
need tar tar
need gzip gzip
need setsid util-linux
need flock util-linux
if [ "$purpose" = test ]; then
    need shellcheck shellcheck
    need chromium chromium
    need chromedriver chromium-driver
fi
[ -n "$missing" ] || exit 0

if command -v apt-get > /dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "capstan: installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # one word per package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null
    exit 0
fi
echo "capstan: these programs are missing; install their packages and try again:$missing" >&2
echo "capstan: on Debian or Ubuntu, as root: apt-get install$missing" >&2
exit 1
