# shellcheck shell=bash
# The project's own guest kernel: small, nothing modular, starts in half the time.

dev_kernel() {
    case ${1:-} in
        -h | --help)
            echo "usage: tools/dev kernel [--remove]"
            echo "Builds the small guest kernel of tools/guest-kernel/config from the distribution's linux-source package (10 to 20"
            echo "minutes on two CPUs). run, test and install use it from then on; --remove goes back to the distribution's kernel."
            return
            ;;
        --remove)
            rm -rf "$dev/guest-own" "$guest/initrd.cpio"
            return
            ;;
        "") ;;
        *) die "kernel: unknown option $1" ;;
    esac
    need_root
    install_packages
    local source
    source=$(apt-cache search --names-only '^linux-source-[0-9.]+$' | awk '{print $1}' | sort -V | tail -n 1)
    [ -n "$source" ] || { refresh_lists; source=$(apt-cache search --names-only '^linux-source-[0-9.]+$' | awk '{print $1}' | sort -V | tail -n 1); }
    [ -n "$source" ] || die "apt knows no linux-source package"
    local build=$dev/cache/$source
    if [ ! -f "$build/Makefile" ]; then
        say "fetch $source, and what a kernel is built with"
        apt_install make flex bison bc libelf-dev libssl-dev xz-utils
        mkdir -p "$dev/cache/source" "$build"
        (cd "$dev/cache/source" && rm -f ./*.deb && apt-get -qq -o APT::Sandbox::User=root download "$source")
        dpkg-deb -x "$dev"/cache/source/*.deb "$dev/cache/source"
        tar -xf "$dev/cache/source/usr/src/$source".tar.xz -C "$build" --strip-components 1
    fi
    say "configure"
    make -s -C "$build" tinyconfig
    (cd "$build" && scripts/kconfig/merge_config.sh -m .config "$root/tools/guest-kernel/config" >/dev/null)
    make -s -C "$build" olddefconfig
    local line missing=""
    while read -r line; do
        case $line in
            CONFIG_*=n) grep -q "^${line%=n}=[ym]" "$build/.config" && missing="$missing $line" ;;
            CONFIG_*) grep -qxF "$line" "$build/.config" || missing="$missing $line" ;;
        esac
    done <"$root/tools/guest-kernel/config"
    [ -z "$missing" ] || say "this kernel did not take:$missing"
    say "build (10 to 20 minutes)"
    make -s -C "$build" -j "$(nproc)" vmlinux >"$dev/kernel.log" 2>&1 || die "the build failed: $(tail -n 5 "$dev/kernel.log")"
    mkdir -p "$dev/guest-own"
    strip -o "$dev/guest-own/vmlinux" "$build/vmlinux"
    rm -f "$guest/initrd.cpio"
    say "built: $dev/guest-own/vmlinux"
}
