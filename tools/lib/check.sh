# shellcheck shell=bash
# What holds for the source, without running it.

dev_check() {
    case ${1:-} in
        -h | --help)
            echo "usage: tools/dev check"
            echo "Formatting, lints as errors, who uses whom among crates and files, unused dependencies, licences, advisories."
            return
            ;;
    esac
    local faults=0
    install_missing missing_compilers
    check_step "formatting" cargo fmt --all --check
    check_step "lints" run_cargo clippy --workspace --all-targets --locked -- -D warnings
    run_cargo build --release -p tools
    check_step "arrows between crates and files" kata_dev arrows "$root"
    check_step "dependencies used, licences allowed" kata_dev packages "$root"
    if cargo deny --version >/dev/null 2>&1; then
        check_step "advisories" cargo deny check advisories
    else
        say "advisories: not looked at, cargo-deny is not installed"
    fi
    if command -v shellcheck >/dev/null; then
        check_step "shell scripts" shellcheck "$root/tools/dev" "$root"/tools/lib/*.sh "$root"/deploy/*.sh "$root/.ci/run"
    else
        say "shell scripts: not looked at, shellcheck is not installed"
    fi
    [ "$faults" -eq 0 ] || die "$faults checks failed"
    say "all checks passed"
}

check_step() {
    local what=$1
    shift
    say "$what"
    (cd "$root" && "$@") || {
        say "FAILED: $what"
        faults=$((faults + 1))
    }
}
