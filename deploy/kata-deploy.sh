#!/usr/bin/env bash
# Puts the runtime onto a Kubernetes node, tells containerd or CRI-O about it, and takes both back without a trace.
#
# It runs in the image of deploy/Containerfile, in a privileged pod with the node's processes and its root at HOST_ROOT.
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=../tools/lib/files.sh
. "$here/files.sh"
# shellcheck source=containerd.sh
. "$here/containerd.sh"

usage() {
    cat <<'END'
usage: kata-deploy.sh install|cleanup|reset...

  install   put the files below /opt/kata, add the handlers kata and kata-qemu, restart the engine, label the node "true"
  cleanup   label the node "cleanup", take handlers and files away; refused while sandboxes run
  reset     restart the engine if its configuration has changed, remove the label

Settings, by environment:
  HOST_ROOT          where the node's root is mounted (/host)
  KATA_ENTER         what a command of the node is started by (nsenter --target 1 --mount --)
  KATA_ENGINE        containerd or crio (crio if its socket is there)
  KATA_RESTART       how the engine is restarted (systemctl restart ENGINE)
  CONTAINERD         containerd's program (containerd)
  CONTAINERD_CONFIG  containerd's configuration (/etc/containerd/config.toml)
  KATA_STAY          a file to make after the last action; then it stays, as a DaemonSet's container has to
  NODE_NAME          the node to be labelled; without it there are no labels
  KATA_API           Kubernetes' API (what every pod's environment says)
  KATA_ACCOUNT       the folder of the service account's token
END
}

say() {
    printf 'kata-deploy: %s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

prefix=/opt/kata
links="containerd-shim-kata-v2 kata-runtime"
artifacts=${KATA_ARTIFACTS:-/opt/kata-artifacts}
label=katacontainers.io/kata-runtime

destdir=${HOST_ROOT-/host}
manifest=$destdir$prefix/share/kata-containers/installed-by-kata-deploy
configuration=$prefix/share/defaults/kata-containers/configuration.toml
crio_drop_in=/etc/crio/crio.conf.d/50-kata.conf
# There while the engine has not read its configuration; a restart of the node removes it.
pending=$destdir/run/kata-deploy.restart
if [ -n "${KATA_ENGINE:-}" ]; then
    engine=$KATA_ENGINE
elif [ -S "$destdir/run/crio/crio.sock" ]; then
    engine=crio
else
    engine=containerd
fi
case $engine in
    containerd | crio) ;;
    *) die "KATA_ENGINE: $engine is neither containerd nor crio" ;;
esac
read -ra enter <<<"${KATA_ENTER-nsenter --target 1 --mount --}"
read -ra restart <<<"${KATA_RESTART:-systemctl restart $engine}"

# Runs a command of the node.
on_node() {
    "${enter[@]}" "$@"
}

install_all() {
    check_links
    check_programs
    put_artifacts
    add_handlers
    restart_engine
    set_label '"true"'
    say "installed: pods with runtimeClassName kata have virtual machines of their own"
}

cleanup_all() {
    # First of all, so that no pod comes any more.
    set_label '"cleanup"'
    check_sandboxes
    remove_handlers
    take_away_artifacts
    say "cleaned up"
}

reset_all() {
    restart_engine
    set_label null
    say "reset"
}

# To be said before the engine's configuration changes, so that the restart is not forgotten whatever happens.
will_change() {
    mkdir -p "$(dirname "$pending")"
    touch "$pending"
}

restart_engine() {
    [ -e "$pending" ] || return 0
    say "restart $engine"
    on_node "${restart[@]}"
    rm "$pending"
}

add_handlers() {
    case $engine in
        containerd) containerd_add "$here/containerd" ;;
        crio)
            ! cmp -s "$here/crio/50-kata.conf" "$destdir$crio_drop_in" || return 0
            will_change
            mkdir -p "$(dirname "$destdir$crio_drop_in")"
            install -m 644 "$here/crio/50-kata.conf" "$destdir$crio_drop_in"
            ;;
    esac
}

remove_handlers() {
    case $engine in
        containerd) containerd_remove ;;
        crio)
            [ -e "$destdir$crio_drop_in" ] || return 0
            will_change
            rm "$destdir$crio_drop_in"
            ;;
    esac
}

put_artifacts() {
    local path
    say "put the files below $prefix"
    begin_files
    while read -r path; do
        case $path in
            "$configuration") put_configuration "$artifacts$path" "$path" ;;
            */installed-by-*) ;;
            *) put "$(stat -c %a "$artifacts$path")" "$artifacts$path" "$path" ;;
        esac
    done < <(cd "$artifacts" && find "./${prefix#/}" -type f | sed 's/^\.//' | sort)
    end_files
    # The engine looks for the shim on its PATH.
    local name
    for name in $links; do
        [ -e "$destdir$prefix/bin/$name" ] || continue
        mkdir -p "$destdir/usr/local/bin"
        ln -sfn "$prefix/bin/$name" "$destdir/usr/local/bin/$name"
    done
}

take_away_artifacts() {
    local name
    if [ -x "$destdir$prefix/bin/kata-runtime" ]; then
        on_node "$prefix/bin/kata-runtime" factory destroy >/dev/null || say "templates may be left in /run/vc/vm/template"
    fi
    for name in $links; do
        ! is_our_link "$name" || rm "$destdir/usr/local/bin/$name"
    done
    if [ -f "$manifest" ]; then
        take_away_files
    fi
    # Edited and added files stay, and so do their folders.
    [ ! -d "$destdir$prefix" ] || find "$destdir$prefix" -depth -type d -empty -delete
}

is_our_link() {
    [ "$(readlink "$destdir/usr/local/bin/$1")" = "$prefix/bin/$1" ]
}

check_links() {
    local name
    for name in $links; do
        if [ -e "$destdir/usr/local/bin/$name" ] && ! is_our_link "$name"; then
            die "/usr/local/bin/$name is another installation's: remove that one first (tools/dev uninstall)"
        fi
    done
}

# QEMU and virtiofsd come with the node's distribution.
check_programs() {
    local file=$destdir$configuration program
    [ -f "$file" ] || file=$artifacts$configuration
    while read -r program; do
        if [ ! -e "$destdir$program" ] && [ ! -L "$destdir$program" ]; then
            die "the node has no $program: install QEMU (qemu-system-x86) and virtiofsd (its package, or qemu-system-common)"
        fi
    done < <(sed -nE 's/^(path|virtio_fs_daemon) = "(.+)"/\2/p' "$file")
}

check_sandboxes() {
    local sandboxes=$destdir/run/vc/sbs count
    [ -d "$sandboxes" ] || return 0
    count=$(find "$sandboxes" -mindepth 1 -maxdepth 1 | wc -l)
    [ "$count" -eq 0 ] || die "$count sandboxes run on this node: delete their pods, then run this again"
}

# VALUE, as JSON; null removes it.
set_label() {
    [ -n "${NODE_NAME:-}" ] || return 0
    local host=${KUBERNETES_SERVICE_HOST:-} account=${KATA_ACCOUNT:-/var/run/secrets/kubernetes.io/serviceaccount}
    case $host in *:*) host="[$host]" ;; esac
    local api=${KATA_API:-https://$host:${KUBERNETES_SERVICE_PORT:-443}}
    say "label node $NODE_NAME: $label: $1"
    # Not in the arguments: everybody on the node can read those.
    printf 'header = "Authorization: Bearer %s"\n' "$(cat "$account/token")" |
        curl --config - --silent --show-error --fail --output /dev/null --max-time 30 --retry 5 --retry-connrefused \
            --cacert "$account/ca.crt" --request PATCH --header 'Content-Type: application/merge-patch+json' \
            --data "{\"metadata\":{\"labels\":{\"$label\":$1}}}" "$api/api/v1/nodes/$NODE_NAME" ||
        die "node $NODE_NAME cannot be labelled"
}

[ $# -gt 0 ] || {
    usage >&2
    exit 2
}
for action in "$@"; do
    case $action in
        install) install_all ;;
        cleanup) cleanup_all ;;
        reset) reset_all ;;
        -h | --help) usage ;;
        *)
            usage >&2
            die "unknown action: $action"
            ;;
    esac
done
[ -z "${KATA_STAY:-}" ] || {
    touch "$KATA_STAY"
    exec sleep infinity
}
