# shellcheck shell=bash
# Putting the programs, the guest and the configuration where a system's containerd finds them, and taking them away.

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
    mkdir -p "$destdir$share"
    : >"$manifest.new"
    put 755 "$target/release/containerd-shim-kata-v2" "$prefix/bin/containerd-shim-kata-v2"
    if [ -x "$target/release/kata-runtime" ]; then
        put 755 "$target/release/kata-runtime" "$prefix/bin/kata-runtime"
    fi
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
    if is_edited "$configuration"; then
        say "kept: $destdir$configuration, which is not as installed; the new one is beside it as configuration.toml.new"
        put 644 "$config" "$configuration.new"
        printf '%s %s\n' "$(hash_of "$config")" "$configuration" >>"$manifest.new"
    else
        put 644 "$config" "$configuration"
    fi
    mv "$manifest.new" "$manifest"
    say "installed below ${destdir:-/}; try: ctr run --rm --runtime io.containerd.kata.v2 IMAGE NAME uname -a"
}

dev_uninstall() {
    parse_install "$@"
    [ -f "$manifest" ] || die "nothing is installed below $destdir$prefix: $manifest is missing"
    if [ -z "$destdir" ] && [ -x "$prefix/bin/kata-runtime" ]; then
        "$prefix/bin/kata-runtime" factory destroy >/dev/null || say "templates may be left in /run/vc/vm/template"
    fi
    local hash path
    while read -r hash path; do
        if [ "$(hash_of "$destdir$path")" = "$hash" ]; then
            rm -f "$destdir$path"
        elif [ -e "$destdir$path" ]; then
            say "kept: $destdir$path, which is not as installed"
        fi
    done <"$manifest"
    rm -f "$manifest"
    # Our own folders alone: an empty /usr/local/bin belongs to the system.
    rmdir --ignore-fail-on-non-empty "$destdir$share" "$(dirname "$destdir$configuration")" \
        "$destdir$prefix/lib/systemd/system" "$destdir$prefix/lib/systemd" 2>/dev/null || true
    say "uninstalled"
}

# Copies a file into place in one step and notes it in the manifest.
put() {
    local mode=$1 from=$2 to=$3
    mkdir -p "$(dirname "$destdir$to")"
    install -m "$mode" "$from" "$destdir$to.tmp"
    mv "$destdir$to.tmp" "$destdir$to"
    printf '%s %s\n' "$(hash_of "$destdir$to")" "$to" >>"$manifest.new"
}

hash_of() {
    [ ! -f "$1" ] || sha256sum <"$1" | cut -d ' ' -f 1
}

# Whether there is a file that no earlier installation put there as it is now.
is_edited() {
    [ -e "$destdir$1" ] && ! grep -qxF "$(hash_of "$destdir$1") $1" "$manifest" 2>/dev/null
}
