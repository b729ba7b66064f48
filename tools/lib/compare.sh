# shellcheck shell=bash
# What a client of containerd sees, with runc and with ours.

compare_usage() {
    cat <<'END'
usage: tools/dev compare [OPTIONS]

Runs one list of scenarios with runc and with ours under a private containerd, and prints the table `scenario | runc | ours`.
What differs is marked: `~` where a reason is written down with the scenario, `!` where not. Exits with 1 if there is a
difference without a reason, or a reason without a difference. Takes about four minutes.

  --only PATTERN   only scenarios with that in their name, as in `signals/` or `mebibyte`; may be given several times
  --runtime WHICH  runc, kata or both (default: both)
  --quick          only the short selection that `tools/dev test` runs
  --all            show the outcomes of scenarios that are the same, too
  --list           the scenarios' names
END
}

dev_compare() {
    local options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --only | --runtime) options+=("$1" "${2:?"$1 needs a value"}") && shift 2 ;;
            --quick | --all | --list) options+=("$1") && shift ;;
            -h | --help) compare_usage && return ;;
            *) compare_usage >&2 && die "compare: unknown option $1" ;;
        esac
    done
    set_up
    leave_no_dirs
    install_missing missing_compilers
    run_cargo build -p integration --bin compare
    # In a session of its own: a key that interrupts must not end its containerd before what runs under it.
    KATA_TEST_ENV=$dev KATA_TEST_BIN=$target/release setsid "$target/debug/compare" "${options[@]}" &
    local compare=$! status=0
    at_end "kill $compare 2>/dev/null && wait $compare"
    wait "$compare" || status=$?
    exit "$status"
}
