#!/bin/sh
# Debian's Chromium and the libraries that this machine lacks for it, unpacked into a folder: debian_chromium.sh DIR
set -eu
mkdir -p "$1"
cd "$1"
missing() { apt-get install -s --no-install-recommends chromium-headless-shell fonts-dejavu-core | awk '/^Inst/ {print $2}'; }
missing > packages.txt || { apt-get update -qq; missing > packages.txt; }
xargs apt-get download -qq < packages.txt
for package in *.deb; do
    dpkg -x "$package" .
    rm "$package"
done
