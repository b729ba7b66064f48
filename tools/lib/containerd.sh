# shellcheck shell=bash
# A private containerd: own root, state, socket and configuration. An existing one is not touched.

image=docker.io/library/kata-busybox:latest
namespace=kata-dev

# Starts it; sets $state (its folder) and $containerd_pid.
start_containerd() {
    # Short, because a unix socket's path is at most 107 bytes.
    state=$(mktemp -d /run/kata-dev.XXXXXX)
    at_end "rm -rf --one-file-system '$state'"
    local data=$dev/containerd
    mkdir -p "$data"
    exec 9>"$data.lock"
    if ! flock -n 9; then
        # Another one runs: neither its images nor its containers' names can be shared.
        data=$state/root
        namespace=$namespace-$$
    fi
    cat >"$state/config.toml" <<END
version = 2
root = "$data"
state = "$state/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "$state/c.sock"
[debug]
level = "debug"
END
    # In a session of its own: what ends this script's group must not end it before its containers are gone.
    PATH=$target/release:$PATH setsid containerd --config "$state/config.toml" >"$state/log" 2>&1 </dev/null 9>&- &
    containerd_pid=$!
    at_end stop_containerd
    local try
    for try in $(seq 200); do
        if private_ctr version >/dev/null 2>&1; then
            # Of a run that was killed.
            remove_containers
            return
        fi
        kill -0 "$containerd_pid" 2>/dev/null || break
        sleep 0.05
    done
    die "containerd does not start: $(tail -n 5 "$state/log")"
}

# All containers, and the writable snapshots that no container names.
remove_containers() {
    local id
    for id in $(private_ctr container ls -q 2>/dev/null); do
        private_ctr task rm --force "$id" >/dev/null 2>&1 || true
        private_ctr container rm "$id" >/dev/null 2>&1 || true
    done
    for id in $(private_ctr snapshots ls 2>/dev/null | awk '$NF == "Active" {print $1}'); do
        private_ctr snapshots rm "$id" >/dev/null 2>&1 || true
    done
}

stop_containerd() {
    remove_containers
    kill "$containerd_pid" 2>/dev/null
    wait "$containerd_pid" 2>/dev/null
    awk -v dir="$state/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | sort -r | while read -r point; do
        umount -l "$point"
    done
    # runc leaves the namespace's own group.
    rmdir /sys/fs/cgroup/*/$namespace /sys/fs/cgroup/$namespace 2>/dev/null
    rm -rf --one-file-system /run/containerd/runc/$namespace
}

private_ctr() {
    ctr --address "$state/c.sock" --namespace $namespace "$@" 9>&-
}

# Imports an archive or a folder in OCI layout, or pulls; sets $image. What is there already is not imported again.
provide_image() {
    local source=$1 archive
    if [ -z "$source" ]; then
        local known=$dev/containerd/imported
        if [ "$(cat "$known" 2>/dev/null)" != "$(sha256sum <"$dev/images/small.tar")" ] ||
            [ -z "$(private_ctr images ls -q | grep -xF "$image")" ]; then
            private_ctr images import "$dev/images/small.tar" >/dev/null
            sha256sum <"$dev/images/small.tar" >"$known"
        fi
        return
    fi
    if [ -d "$source" ]; then
        [ -f "$source/oci-layout" ] || die "--image: $source is no OCI layout (it has no file oci-layout)"
        archive=$state/image.tar
        tar -C "$source" -cf "$archive" .
    elif [ -f "$source" ]; then
        archive=$source
    fi
    if [ -n "${archive:-}" ]; then
        say "import $source"
        image=$(private_ctr images import --base-name "local/$(basename "${source%.tar}")" "$archive" |
            sed -n 's/^unpacking \([^ ]*\) .*/\1/p; s/^\([^ ]*\)[[:space:]]*saved.*/\1/p' | head -n 1)
        [ -n "$image" ] || die "--image: $source holds no image that containerd can import"
    else
        say "pull $source"
        private_ctr images pull "$source" >/dev/null || die "--image: $source cannot be pulled"
        image=$source
    fi
}
