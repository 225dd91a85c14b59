#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing, where it may.
set -euo pipefail

if dpkg -s "$@" > /dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "This needs the packages $*: install them and try again." >&2
    exit 1
fi
echo "installing $*"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@" > /dev/null
