# shellcheck shell=bash
# What every part uses: words for people, places, and what is undone at the end.

target=${CARGO_TARGET_DIR:-$root/target}
dev=$target/dev
arch=$(uname -m)

say() {
    printf '==> %s\n' "$*" >&2
}

die() {
    printf 'tools/dev: %s\n' "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "needs root: containers, mounts and virtual machines are made (try sudo)"
    command -v apt-get >/dev/null || die "sets up by apt-get, which this machine does not have; see README.md for what is needed"
    command -v cargo >/dev/null || die "needs the Rust toolchain: cargo is not on PATH"
    [ "$arch" = x86_64 ] || die "sets up x86_64 machines; this one is $arch"
}

# What is to be done at the end, however it comes; last first.
at_end_list=()
at_end() {
    at_end_list=("$*" "${at_end_list[@]}")
}
run_at_end() {
    local status=$?
    trap '' INT TERM
    set +e
    local step
    for step in "${at_end_list[@]}"; do
        eval "$step"
    done
    exit "$status"
}
trap run_at_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Directories that the runtime makes in shared places: those that were not there before are removed again when empty.
shared_dirs="/run/kata-containers /run/kata-containers/shared /run/kata-containers/shared/sandboxes
    /run/vc /run/vc/sbs /run/vc/vm /run/containerd /run/containerd/s /run/containerd/fifo /run/containerd/runc"
leave_no_dirs() {
    local dir fresh=""
    for dir in $shared_dirs; do
        [ -e "$dir" ] || fresh="$dir $fresh"
    done
    [ -e /run/vc ] || at_end "rm -rf /run/vc/kvm-probe"
    [ -e /var/log/kata-containers ] || at_end "rm -rf /var/log/kata-containers"
    # After what is above, which stands in front of it: last first.
    at_end_list+=("for dir in $fresh; do rmdir \"\$dir\" 2>/dev/null; done")
}

# Runs cargo; with its progress on a terminal, without a word elsewhere.
run_cargo() {
    if [ -t 2 ]; then
        cargo "$@"
    else
        cargo "${1}" --quiet "${@:2}"
    fi
}
