# shellcheck shell=bash
# The distribution's packages: only the missing ones, named once.

find_virtiofsd() {
    local path
    for path in /usr/libexec/virtiofsd /usr/lib/virtiofsd /usr/lib/qemu/virtiofsd; do
        if [ -x "$path" ]; then
            echo "$path"
            return
        fi
    done
}

find_static_busybox() {
    local path
    for path in /bin/busybox /usr/bin/busybox; do
        if [ -x "$path" ] && ! ldd "$path" >/dev/null 2>&1; then
            echo "$path"
            return
        fi
    done
}

find_libseccomp_dir() {
    local file
    for file in /usr/lib/*/libseccomp.a /usr/lib/libseccomp.a; do
        if [ -f "$file" ]; then
            dirname "$file"
            return
        fi
    done
}

has_candidate() {
    [ -n "$(apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]')" ]
}

refresh_lists() {
    [ -z "${lists_are_fresh:-}" ] || return 0
    say "refresh apt's lists"
    apt-get update -qq >"$dev/apt.log" 2>&1 || die "apt-get update failed: $(tail -n 3 "$dev/apt.log")"
    lists_are_fresh=1
}

# Packages that the machine lacks, by what they bring: a machine may have it from elsewhere.
missing_packages() {
    command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86
    { command -v containerd && command -v ctr; } >/dev/null || echo containerd
    command -v runc >/dev/null || echo runc
    command -v cc >/dev/null || echo gcc libc6-dev
    command -v xz >/dev/null || echo xz-utils
    command -v zstd >/dev/null || echo zstd
    [ -n "$(find_static_busybox)" ] || echo busybox-static
    [ -n "$(find_libseccomp_dir)" ] || echo libseccomp-dev
    # In Debian 12 and Ubuntu 22.04 it comes with QEMU.
    if [ -z "$(find_virtiofsd)" ] && has_candidate virtiofsd; then
        echo virtiofsd
    fi
}

# What the crate `integration` is built with.
missing_compilers() {
    command -v protoc >/dev/null || echo protobuf-compiler
}

# What only the tests want: real counterparts.
missing_counterparts() {
    [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || echo containernetworking-plugins
    # Which those call.
    command -v iptables >/dev/null || echo iptables
    # kata-deploy's way to Kubernetes' API.
    command -v curl >/dev/null || echo curl
}

install_packages() {
    install_missing missing_packages
    [ -n "$(find_virtiofsd)" ] || die "no virtiofsd was found or could be installed"
}

# What the function names that is called LISTER.
install_missing() {
    local lister=$1 wanted
    mkdir -p "$dev"
    wanted=$($lister | tr '\n' ' ')
    if [ -n "${wanted// /}" ]; then
        refresh_lists
        wanted=$($lister | tr '\n' ' ')
        say "install from the distribution: $wanted"
        # shellcheck disable=SC2086
        apt_install $wanted
    fi
}

# Installs without starting services, which an administrator may not want, and without removing anything.
apt_install() {
    local guard=/usr/sbin/policy-rc.d status=0
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod 755 "$guard"
        at_end "rm -f $guard"
    else
        guard=
    fi
    if ! apt_get install --no-remove "$@"; then
        # An installed QEMU tool of another release can stand in the way: bring it to this release's version.
        local align
        align=$(installed_qemu_tools)
        [ -n "$align" ] || status=1
        if [ "$status" -eq 0 ]; then
            say "these packages of another release conflict, they get this release's version: $align"
            # shellcheck disable=SC2086
            apt_get install --allow-downgrades "$@" $align || status=1
        fi
    fi
    [ -z "$guard" ] || rm -f "$guard"
    [ "$status" -eq 0 ] || die "apt-get install failed: $(tail -n 5 "$dev/apt.log")"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -qq "$1" --no-install-recommends "${@:2}" >"$dev/apt.log" 2>&1
}

# Installed qemu packages whose version is not the candidate of qemu-system-x86, as PACKAGE=CANDIDATE.
installed_qemu_tools() {
    local version package
    version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ {print $2}')
    for package in $(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'qemu*' 2>/dev/null | awk '/^ii/ {print $2}'); do
        if [ -n "$(apt-cache madison "$package" | grep -F "| $version |")" ]; then
            printf '%s=%s ' "$package" "$version"
        fi
    done
}
