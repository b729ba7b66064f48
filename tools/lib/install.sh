# shellcheck shell=bash
# Putting the programs, the guest and the configuration where a system's containerd finds them, and taking them away.
# With --destdir this also fills the image of deploy/Containerfile.

install_usage() {
    cat <<'END'
usage: tools/dev install|uninstall [--destdir DIR] [--prefix PREFIX]

Installs containerd-shim-kata-v2, the guest's kernel and initrd, and configuration.toml. With the default prefix, /usr/local,
a containerd started by the system finds the shim on its PATH; the configuration goes to /etc/kata-containers, where it is
looked for first. An edited configuration is kept, by both commands.

  --destdir DIR    put everything below DIR, as for a package
  --prefix PREFIX  instead of /usr/local
END
}

parse_install() {
    destdir="" prefix=/usr/local
    while [ $# -gt 0 ]; do
        case $1 in
            --destdir) destdir=${2:?"--destdir needs a folder"} && shift 2 ;;
            --prefix) prefix=${2:?"--prefix needs a folder"} && shift 2 ;;
            -h | --help) install_usage && exit 0 ;;
            *) install_usage >&2 && die "unknown option $1" ;;
        esac
    done
    case $prefix in
        /*) prefix=${prefix%/} ;;
        *) die "--prefix: $prefix is not absolute" ;;
    esac
    share=$prefix/share/kata-containers
    manifest=$destdir$share/installed-by-tools-dev
    # Searched by the runtime: /usr/share/defaults and /opt/kata/share/defaults; any other prefix needs /etc.
    case $prefix in
        /usr | /opt/kata) configuration=$prefix/share/defaults/kata-containers/configuration.toml ;;
        *) configuration=/etc/kata-containers/configuration.toml ;;
    esac
}

dev_install() {
    parse_install "$@"
    set_up
    begin_files
    put 755 "$target/release/containerd-shim-kata-v2" "$prefix/bin/containerd-shim-kata-v2"
    local program
    for program in kata-runtime kata-runtime-proxy; do
        if [ -x "$target/release/$program" ]; then
            put 755 "$target/release/$program" "$prefix/bin/$program"
        fi
    done
    put 644 "$kernel" "$share/vmlinux.container"
    put 644 "$guest/initrd.cpio" "$share/kata-containers-initrd.img"
    local config=$dev/install.toml
    kata_dev config --template "$dev/configuration.toml" -o "$config" \
        --set "hypervisor.qemu.kernel=$share/vmlinux.container" \
        --set "hypervisor.qemu.initrd=$share/kata-containers-initrd.img" \
        --set "hypervisor.qemu.vhost_user_vsock_daemon=/usr/libexec/vhost-device-vsock" \
        --set "factory.template_path=/run/vc/vm/template"
    sed "s|@PREFIX@|$prefix|" "$root/tools/systemd/kata-factory.service" >"$dev/kata-factory.service"
    put 644 "$dev/kata-factory.service" "$prefix/lib/systemd/system/kata-factory.service"
    put_configuration "$config" "$configuration"
    end_files
    say "installed below ${destdir:-/}; try: ctr run --rm --runtime io.containerd.kata.v2 IMAGE NAME uname -a"
}

dev_uninstall() {
    parse_install "$@"
    [ -f "$manifest" ] || die "nothing is installed below $destdir$prefix: $manifest is missing"
    if [ -z "$destdir" ] && [ -x "$prefix/bin/kata-runtime" ]; then
        "$prefix/bin/kata-runtime" factory destroy >/dev/null || say "templates may be left in /run/vc/vm/template"
    fi
    take_away_files
    # Our own folders alone: an empty /usr/local/bin belongs to the system.
    rmdir --ignore-fail-on-non-empty "$destdir$share" "$(dirname "$destdir$configuration")" \
        "$destdir$prefix/lib/systemd/system" "$destdir$prefix/lib/systemd" 2>/dev/null || true
    say "uninstalled"
}
