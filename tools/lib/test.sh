# shellcheck shell=bash
# All tests, with everything real that they want.

dev_test() {
    case ${1:-} in
        -h | --help)
            echo "usage: tools/dev test [FILTER]"
            echo "Sets up a guest, the counterparts and the programs, and runs all tests, or those whose name contains FILTER."
            return
            ;;
    esac
    set_up
    install_missing missing_compilers
    install_missing missing_counterparts
    fetch_counterparts
    install_vhost_device_vsock
    leave_no_dirs
    say "run the tests"
    # A machine that builds once has nothing of it but a full disk.
    [ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
    export KATA_TEST_ENV=$dev KATA_TEST_BIN=$target/release
    # What a test says when it fails comes last, not under a stack of the executor's frames.
    export RUST_BACKTRACE=0
    if cargo nextest --version >/dev/null 2>&1; then
        # Two at a time: each virtual machine takes a CPU while it boots.
        # What failed is told once more at the end, where it is looked for.
        cargo nextest run --workspace --no-fail-fast --failure-output immediate-final --test-threads 2 "$@"
    else
        cargo test --workspace --no-fail-fast -- --test-threads 2 "$@"
    fi
}

install_vhost_device_vsock() {
    [ -x "$dev/cargo/bin/vhost-device-vsock" ] || {
        say "build vhost-device-vsock, for the channel of that name"
        run_cargo install --locked --root "$dev/cargo" --version 0.3.0 vhost-device-vsock
    }
}

# Other releases of containerd and Docker, a registry and Podman, from releases of Debian: unpacked here, never installed.
fetch_counterparts() {
    fetch_counterpart containerd-1.7 trixie bin/containerd containerd
    fetch_counterpart containerd-2 sid bin/containerd containerd
    fetch_counterpart registry bookworm bin/docker-registry docker-registry
    fetch_counterpart docker-20 bookworm sbin/dockerd docker.io tini
    # Compose is the last of what these trees have: where it is, they are whole.
    fetch_counterpart docker-26 trixie libexec/docker/cli-plugins/docker-compose docker.io docker-cli docker-compose \
        containerd tini
    fetch_counterpart docker-sid sid libexec/docker/cli-plugins/docker-compose docker.io docker-cli docker-compose \
        containerd tini-static
    fetch_counterpart podman-4 bookworm bin/podman podman conmon netavark aardvark-dns golang-github-containers-common \
        golang-github-containers-image catatonit libgpgme11 libassuan0 libsubid4 libyajl2
    # Its libc is newer than a machine's may be, and is with it.
    fetch_counterpart podman-5 trixie bin/newuidmap podman uidmap conmon netavark aardvark-dns golang-github-containers-common \
        golang-github-containers-image catatonit passt libc6 libgpgme11t64 libassuan9 libgpg-error0 libsqlite3-0 libsubid5 \
        libglib2.0-0t64 libmount1 libblkid1 libseccomp2
}

# NAME SUITE PROGRAM PACKAGE...: it is there if the program is, below usr.
fetch_counterpart() {
    local name=$1 suite=$2 tree=$dev/counterparts/$1 program=$3
    local packages=("${@:4}") package
    [ ! -x "$tree/usr/$program" ] || return 0
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        grep -E '/debian/?$' | head -n 1 || true)
    if [ -z "$mirror" ]; then
        say "$name: this machine's apt has no Debian mirror to fetch it from; its tests cannot run"
        return
    fi
    say "fetch $name from Debian $suite"
    local apt=$dev/cache/apt-$suite
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$apt/debs" "$dev/counterparts"
    echo "deb [trusted=yes] $mirror $suite main" >"$apt/sources.list"
    : >"$apt/status"
    local options=(-qq -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status"
        -o "Dir::Cache=$apt/cache" -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts"
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root)
    if (
        cd "$apt/debs"
        rm -f ./*.deb
        apt-get "${options[@]}" update && apt-get "${options[@]}" download "${packages[@]}"
    ) >"$dev/apt.log" 2>&1; then
        rm -rf "$tree.new"
        for package in "${packages[@]}"; do
            dpkg-deb -x "$(ls "$apt/debs/${package}"_*.deb | head -n 1)" "$tree.new"
        done
        rm -f "$apt"/debs/*.deb
        rm -rf "$tree"
        mv "$tree.new" "$tree"
    else
        say "$name cannot be fetched, its tests cannot run: $(tail -n 2 "$dev/apt.log")"
    fi
}
