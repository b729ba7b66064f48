# shellcheck shell=bash
# What dies, and what is left: the matrix of faults, and random lives for as long as one likes.

faults_usage() {
    cat <<'END'
usage: tools/dev faults [--fake] [FAULT|POINT]…

Lives a container's life for each step that changes the host or talks to the guest, and for each fault: the shim, QEMU, the
share's daemon or the vsock back end killed, QEMU ended or stopped, ENOSPC, EMFILE, ENOMEM, an agent that hangs, refuses or
babbles. Afterwards the container can be removed, nothing is left, and its name can be used again; what does not hold is
listed below the table. Exits with 1 then.

  --fake   over the fake VM, several at a time: minutes. Without it, in real VMs under a containerd: about an hour
  FAULT    only these: shim-9 qemu-9 qemu-15 qemu-stop share-9 vsock-9 ENOSPC EMFILE ENOMEM hang error garbage
  POINT    only points whose names begin so: claim. release.mount agent.CreateContainer qmp. …

Cells: `create!` that call was refused, `create?` the shim was gone in it, `-` nobody noticed, `~` the point was not
passed, `<<<` something does not hold.
END
}

soak_usage() {
    cat <<'END'
usage: tools/dev soak [--cycles N] [--seed N] [--fake]

Random lives, one after the other, each with a look for what it left: containers that end, execs, kills, pauses, limits,
pods, and deaths of the shim and of QEMU. The seed is printed; the same seed makes the same lives.

  --cycles N   so many (default: 300)
  --fake       containers in one sandbox over the fake VM: what a shim that lives for long takes, which must not grow
END
}

dev_faults() {
    local words=(vm)
    while [ $# -gt 0 ]; do
        case $1 in
            --fake) words=(fake) ;;
            -h | --help) faults_usage && return ;;
            -*) faults_usage >&2 && die "faults: unknown option $1" ;;
            *) words+=("$1") ;;
        esac
        shift
    done
    run_integration faults "${words[@]}"
}

dev_soak() {
    local kind=vm cycles=300 seed=$RANDOM
    while [ $# -gt 0 ]; do
        case $1 in
            --fake) kind=fake && shift ;;
            --cycles) cycles=${2:?"--cycles needs a value"} && shift 2 ;;
            --seed) seed=${2:?"--seed needs a value"} && shift 2 ;;
            -h | --help) soak_usage && return ;;
            *) soak_usage >&2 && die "soak: unknown option $1" ;;
        esac
    done
    run_integration soak "$kind" "$cycles" "$seed"
}

# A program of the tests', in a session of its own: a key that interrupts must not end its containerd before what runs
# under it.
run_integration() {
    local program=$1
    shift
    set_up
    leave_no_dirs
    install_missing missing_compilers
    run_cargo build -p integration --bins
    KATA_TEST_ENV=$dev KATA_TEST_BIN=$target/release setsid "$target/debug/$program" "$@" &
    local child=$! status=0
    at_end "kill $child 2>/dev/null && wait $child"
    wait "$child" || status=$?
    exit "$status"
}
