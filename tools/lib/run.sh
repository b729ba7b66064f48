# shellcheck shell=bash
# A container in a virtual machine of its own, in one command.

run_usage() {
    cat <<'END'
usage: tools/dev run [OPTIONS] [-- CMD…]

Runs CMD in a container that has a virtual machine of its own, under a private containerd, and exits with CMD's exit
code. Without CMD it shows the guest's `uname -a`. On a terminal it is interactive: tools/dev run -- sh

  --image REF     an OCI layout or image archive on disk, or a reference into a registry (default: a small busybox)
  --cpus N        CPUs for the container, fractions allowed
  --memory SIZE   memory for the container: bytes, or with K, M or G
  --config FILE   another configuration.toml
END
}

dev_run() {
    local source="" config="" options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --image) source=${2:?"--image needs a reference"} && shift 2 ;;
            --cpus) options+=(--cpus "${2:?"--cpus needs a number"}") && shift 2 ;;
            --memory) options+=(--memory-limit "$(bytes "${2:?"--memory needs a size"}")") && shift 2 ;;
            --config) config=$(readlink -f "${2:?"--config needs a file"}") && shift 2 ;;
            -h | --help) run_usage && return ;;
            --) shift && break ;;
            *) run_usage >&2 && die "run: unknown option $1 (a command comes after --)" ;;
        esac
    done
    [ -z "$config" ] || [ -f "$config" ] || die "--config: $config is not a file"
    [ $# -gt 0 ] || set -- uname -a
    if [ -t 0 ] && [ -t 1 ]; then
        options+=(-t)
    fi
    set_up
    leave_no_dirs
    start_containerd
    provide_image "$source"
    if [ -z "${KATA_DEV_RUNTIME:-}" ]; then
        options+=(--runtime io.containerd.kata.v2 --runtime-config-path "${config:-$dev/configuration.toml}")
    else
        options+=(--runtime "$KATA_DEV_RUNTIME")
    fi
    local status=0
    private_ctr run --rm --fifo-dir "$state/fifo" "${options[@]}" "$image" "run-$$" "$@" || status=$?
    exit "$status"
}

# 512M -> 536870912
bytes() {
    local number=${1%[KkMmGg]} unit=1
    case $1 in
        *[Kk]) unit=1024 ;;
        *[Mm]) unit=$((1024 * 1024)) ;;
        *[Gg]) unit=$((1024 * 1024 * 1024)) ;;
    esac
    case $number in
        '' | *[!0-9]*) die "--memory: $1 is no size (examples: 512M, 2G)" ;;
    esac
    echo $((number * unit))
}
