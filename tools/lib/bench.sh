# shellcheck shell=bash
# Figures, printed as tables.

dev_bench() {
    local runs=7
    [ "${1:-}" = start ] && shift || {
        echo "usage: tools/dev bench start [--runs N]"
        echo "Runs a container that does nothing with runc and with ours in turn; prints medians, the ratio, and where our time goes."
        case ${1:-} in -h | --help) return ;; *) exit 1 ;; esac
    }
    while [ $# -gt 0 ]; do
        case $1 in
            --runs) runs=${2:?"--runs needs a number"} && shift 2 ;;
            *) die "bench start: unknown option $1" ;;
        esac
    done
    set_up
    leave_no_dirs
    start_containerd
    provide_image ""
    # The shim's own log says where the time goes.
    kata_dev config --template "$dev/configuration.toml" -o "$state/bench.toml" --set runtime.enable_debug=true
    kata_dev bench-start --address "$state/c.sock" --namespace $namespace --config "$state/bench.toml" --image "$image" \
        --log "$state/log" --runs "$runs" 9>&-
}
