# shellcheck shell=bash
# What a virtual machine boots: the agent, a kernel, an initrd; and the image of the first container.

guest=$dev/guest

build_programs() {
    say "build the programs"
    run_cargo build --release -p shim -p tools
    build_agent
}

build_agent() {
    RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=$(find_libseccomp_dir) \
        run_cargo build --profile agent -p agent --bin kata-agent --target "$arch-unknown-linux-gnu"
}

kata_dev() {
    "$target/release/kata-dev" "$@"
}

# The distribution's kernel package, unpacked and never installed.
fetch_kernel() {
    if [ -f "$dev/guest-own/vmlinux" ]; then
        kernel=$dev/guest-own/vmlinux
        modules=
        return
    fi
    kernel=$guest/vmlinux
    modules=$(cat "$guest/modules" 2>/dev/null || true)
    if [ -f "$kernel" ] && [ -d "$modules" ]; then
        return
    fi
    local meta=linux-image-amd64
    has_candidate $meta || meta=linux-image-generic
    if ! has_candidate $meta; then
        refresh_lists
        has_candidate linux-image-amd64 && meta=linux-image-amd64
    fi
    has_candidate $meta || die "apt knows neither linux-image-amd64 nor linux-image-generic"
    local packages
    packages=$(apt-cache depends $meta | awk '/Depends: linux-(image|modules)-[0-9]/ {print $2}')
    # Ubuntu keeps the modules in a package of their own.
    packages="$packages $(for p in $packages; do apt-cache depends "$p" | awk '/Depends: linux-modules-[0-9]/ {print $2}'; done)"
    say "fetch a guest kernel:" $packages
    mkdir -p "$dev/cache/kernel" "$guest"
    rm -rf "$dev/cache/kernel-tree"
    (
        cd "$dev/cache/kernel"
        rm -f ./*.deb
        # shellcheck disable=SC2086
        apt-get -qq -o APT::Sandbox::User=root download $packages
        for package in ./*.deb; do
            dpkg-deb -x "$package" "$dev/cache/kernel-tree"
        done
    ) || die "the kernel's package cannot be fetched"
    say "take the kernel out of its compressed image"
    local found
    for found in "$dev"/cache/kernel-tree/boot/vmlinuz-*; do
        kata_dev vmlinux "$found" "$guest/vmlinux.new"
    done
    for found in "$dev"/cache/kernel-tree/lib/modules/* "$dev"/cache/kernel-tree/usr/lib/modules/*; do
        [ ! -d "$found" ] || echo "$found" >"$guest/modules"
    done
    mv "$guest/vmlinux.new" "$kernel"
    modules=$(cat "$guest/modules")
}

make_initrd() {
    local agent=$target/$arch-unknown-linux-gnu/agent/kata-agent out=$guest/initrd.cpio
    mkdir -p "$guest"
    if [ ! -f "$out" ] || [ "$agent" -nt "$out" ] || [ "$target/release/kata-dev" -nt "$out" ] || [ "$kernel" -nt "$out" ]; then
        say "make the guest's initrd"
        kata_dev initrd --agent "$agent" ${modules:+--modules "$modules"} -o "$out.new"
        mv "$out.new" "$out"
    fi
}

make_image() {
    local out=$dev/images/small.tar
    if [ ! -f "$out" ]; then
        say "make the images"
        mkdir -p "$dev/images"
        kata_dev busybox-image --busybox "$(find_static_busybox)" "$out.new"
        mv "$out.new" "$out"
    fi
}

make_configuration() {
    kata_dev config --template "$root/configuration.toml" -o "$dev/configuration.toml" \
        --set "hypervisor.qemu.path=$(command -v qemu-system-x86_64)" \
        --set "hypervisor.qemu.kernel=$kernel" \
        --set "hypervisor.qemu.initrd=$guest/initrd.cpio" \
        --set "hypervisor.qemu.virtio_fs_daemon=$(find_virtiofsd)" \
        --set "hypervisor.qemu.vhost_user_vsock_daemon=$dev/cargo/bin/vhost-device-vsock" \
        --set "factory.template_path=$dev/template"
}

# Everything that a container in a virtual machine needs.
set_up() {
    need_root
    install_packages
    build_programs
    fetch_kernel
    make_initrd
    make_image
    make_configuration
}

dev_image() {
    case ${1:-} in
        -h | --help)
            echo "usage: tools/dev image"
            echo "Makes the guest's kernel (taken out of the distribution's package) and initrd, and says where they are."
            return
            ;;
    esac
    set_up
    printf 'kernel: %s\ninitrd: %s\nconfiguration: %s\n' "$kernel" "$guest/initrd.cpio" "$dev/configuration.toml"
}
