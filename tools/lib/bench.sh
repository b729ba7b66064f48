# shellcheck shell=bash
# Figures: what a container in a virtual machine costs, beside runc in the same run and QEMU driven by hand.

bench_usage() {
    cat <<'END'
usage: tools/dev bench [WHAT] [OPTIONS]

Measures runc, each way to a VM that can be set up here, and a QEMU driven by hand in turn, and prints median, range, ratio
to runc and aim. WHAT is one of

  start     a whole container; where the time goes; the VM's first answer; CPU time (the default)
  second    a second container in a VM that runs
  pod       the start of a pod, its second container and its fiftieth
  exec      one more process in a container that runs
  io        what standard streams carry, beside the raw channel
  net       what TCP carries, beside a tap without filters, and what an interface adds to a start
  cli       the OCI command line: its questions, and a whole container beside one through the shim
  rate      starts per second with all cores busy
  memory    memory of an idle sandbox
  idle      wake-ups of an idle sandbox
  growth    one sandbox after the other, until there are many
  channel   round trip and throughput of each way to the agent; takes --runs and --json only, and is not part of all
  worth     what each option of QEMU and of the guest's kernel is worth to a boot
  all       all of these
  trace     one start as a waterfall across ctr, shim, QEMU, the guest's kernel and the agent (also as --trace)

  --runs N         how often each thing is measured, after one run that does not count (default: 7)
  --way WAY        cold, private, copied (clones of a template) or pool; may be given several times (default: all)
  --sandboxes N    what growth grows to (default: 50)
  --seconds N      how long idle looks on (default: 60)
  --json FILE      write everything as JSON; trace: in Chrome's trace format
  --charts DIR     write charts, and figures.md with all tables, into DIR
END
}

dev_bench() {
    local what=start given="" options=()
    while [ $# -gt 0 ]; do
        case $1 in
            start | second | pod | exec | io | net | cli | rate | memory | idle | growth | channel | worth | all | trace)
                [ -z "$given" ] || die "bench: $given or $1?"
                what=$1 given=$1 && shift
                ;;
            --trace) what=trace given=trace && shift ;;
            --runs | --way | --sandboxes | --seconds) options+=("$1" "${2:?"$1 needs a value"}") && shift 2 ;;
            --json | --charts) options+=("$1" "$(readlink -m "${2:?"$1 needs a path"}")") && shift 2 ;;
            -h | --help) bench_usage && return ;;
            *) bench_usage >&2 && die "bench: unknown option $1" ;;
        esac
    done
    set_up
    leave_no_dirs
    if [ "$what" = channel ]; then
        bench_channel "${options[@]}"
        return
    fi
    # Templates are in memory, as they are in use; sockets need a short path.
    local work
    work=$(mktemp -d /dev/shm/kata-bench.XXXXXX)
    at_end "end_bench '$work'"
    start_containerd
    provide_image ""
    # The shim's own log says where the time goes.
    kata_dev config --template "$dev/configuration.toml" -o "$work/base.toml" --set runtime.enable_debug=true
    if [ "$what" = io ] || [ "$what" = all ]; then
        bench_channel --runs 3 --json "$work/channel.json"
        options+=(--channel "$work/channel.json")
    fi
    [ "$kernel" != "$dev/guest-own/vmlinux" ] || options+=(--small-kernel)
    kata_dev bench "$what" --address "$state/c.sock" --namespace $namespace --image "$image" --log "$state/log" \
        --containerd-pid "$containerd_pid" --config "$work/base.toml" --work "$work" \
        --kata-runtime "$target/release/kata-runtime" "${options[@]}" 9>&-
}

# An example of the integration tests: only they may use the engine.
bench_channel() {
    install_vhost_device_vsock
    say "build the bench of the channels"
    install_missing missing_compilers
    run_cargo build --release -p integration --example bench-channel
    KATA_TEST_ENV=$dev "$target/release/examples/bench-channel" "$@"
}

# Also what a template has mounted there.
end_bench() {
    awk -v dir="$1/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | sort -r | while read -r point; do
        umount -l "$point"
    done
    rm -rf --one-file-system "$1"
}
