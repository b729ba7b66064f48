# shellcheck shell=bash
# The handlers in containerd's configuration, and out of it again, byte by byte.
#
# containerd 2 merges drop-ins table by table, so it gets one, and an `imports` if no present one names it. containerd 1.6
# and 1.7 let a drop-in with one table of CRI replace ALL of CRI's tables, so there a marked block goes to the end of the
# file that has them, with a table for runc where its default would be gone. Whatever is done, `containerd config dump`
# must show it, with every handler of before; if it does not, it is undone.
# For kata-deploy.sh, which says on_node, will_change, die and $destdir. Texts of files are exact: read_text sets $text, and
# what changes it changes that.

containerd=${CONTAINERD:-containerd}
main=${CONTAINERD_CONFIG:-/etc/containerd/config.toml}
drop_in=$(dirname "$main")/conf.d/50-kata.toml
begin=$'\n# kata-deploy begins; `kata-deploy.sh cleanup` removes this block\n'
end=$'# kata-deploy ends\n'
written=$'# Written by kata-deploy: there was none.\n'
import_line="imports = [\"$drop_in\"]"$'\n'
import_item="\"$drop_in\", "
shopt -s extglob

# FOLDER of the tables: adds the handlers.
containerd_add() {
    local tables=$1 newest others
    [ ! -L "$destdir$main" ] || die "$main is a link: name the file itself by CONTAINERD_CONFIG"
    newest=$(on_node "$containerd" config default | sed -n 's/^version *= *//p')
    [ -n "$newest" ] || die "\`$containerd config default\` names no version: is CONTAINERD right?"
    others=$(handlers_of_others)
    if [ "$newest" -ge 3 ]; then
        add_drop_in "$tables" "$newest"
    else
        add_block "$tables"
    fi
    if [ "$(our_handlers)" -ne 2 ] || [ "$(handlers_of_others)" != "$others" ]; then
        containerd_remove
        die "containerd would not have its handlers and ours (\`$containerd --config $main config dump\`): ours are out again; add them by hand"
    fi
}

# Takes all of it back.
containerd_remove() {
    local file
    mapfile -t files < <(files)
    for file in "${files[@]}"; do
        restore "$file"
    done
    if [ -e "$destdir$drop_in" ]; then
        will_change
        rm "$destdir$drop_in"
        rmdir "$(dirname "$destdir$drop_in")" 2>/dev/null || true # Others' drop-ins may be there.
    fi
}

add_drop_in() {
    local tables=$1 newest=$2 version
    read_text "$destdir$main"
    [ -f "$destdir$main" ] || text=${written}"version = $newest"$'\n'
    local main_text=$text
    version=$(version_of_text)
    # A drop-in of another version than the file that imports it is not understood.
    case $version in
        1) die "$main is of version 1: let \`$containerd config migrate\` write a newer one" ;;
        2) read_text "$tables/kata-v2.toml" ;;
        *)
            read_text "$tables/kata-v3.toml"
            text=${text/version = 3/version = $version}
            ;;
    esac
    write "$drop_in"
    if [ "$(our_handlers)" -ne 2 ]; then
        text=$main_text
        import_drop_in
        write "$main"
    fi
}

add_block() {
    local tables=$1 file block
    file=$(file_of_cri)
    read_text "$tables/kata-v2.toml"
    block=$(sed -n '/^\[/,$p' <<<"$text")$'\n'
    read_text "$destdir$file"
    [ -f "$destdir$file" ] || text=${written}$'version = 2\n'
    remove_block
    [ "$(version_of_text)" -eq 2 ] || die "$file is not of version 2, which containerd 1.6 has deprecated: rewrite it"
    if ! grep -q '^[^#]*containerd\.runtimes' <<<"$text"; then
        # Its default goes when another one is named.
        block+=$'\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n'
    fi
    text+=$begin$block$end
    write "$file"
}

# Takes out of a file what was put in, and the file if there was none.
restore() {
    local file=$1
    read_text "$destdir$file"
    remove_block
    text=${text/"$import_line"/}
    text=${text/"$import_item"/}
    if [[ $text =~ ^"$written"version\ =\ [0-9]+$'\n'$ ]]; then
        will_change
        rm "$destdir$file"
    else
        write "$file"
    fi
}

remove_block() {
    if [[ $text == *"$begin"*"$end"* ]]; then
        text=${text%%"$begin"*}${text#*"$end"}
    fi
}

# Puts the drop-in among the text's imports.
import_drop_in() {
    local pattern=$'\n[ \t]*imports[ \t]*=[ \t]*\\[' found
    text=$'\n'$text
    if [[ $(head_of_text) =~ $pattern ]]; then
        found=${BASH_REMATCH[0]}
        text=${text%%"$found"*}$found$import_item${text#*"$found"}
    else
        text=$'\n'$import_line${text#?}
    fi
    text=${text#?}
}

# The version that the text says it has; without one it is 1.
version_of_text() {
    local pattern=$'\n[ \t]*version[ \t]*=[ \t]*([0-9]+)'
    if [[ $(head_of_text) =~ $pattern ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        echo 1
    fi
}

# What stands before the first table, after an empty line.
head_of_text() {
    local head=$'\n'$text
    printf '%s' "${head%%$'\n'*([[:blank:]])'['*}"
}

# The one file of CRI's tables: of imports, only one may have them, for it replaces all others'.
file_of_cri() {
    local file found=$main count=0
    while read -r file; do
        if grep -q '^[^#]*io\.containerd\.grpc\.v1\.cri' "$destdir$file"; then
            found=$file count=$((count + 1))
        fi
    done < <(files | grep -vxF "$main")
    [ "$count" -le 1 ] || die "several imports of $main have tables of CRI, and one of them replaces the others: add those of kata-v2.toml by hand"
    echo "$found"
}

# The main file and what it imports, those that are there.
files() {
    local file
    while read -r file; do
        [ ! -f "$destdir$file" ] || echo "$file"
    done < <(
        echo "$main"
        dump | sed -n 's/^imports = \[\(.*\)\]$/\1/p' | tr ',' '\n' | sed "s/^ *['\"]//; s/['\"] *\$//" | grep -vxF "$main"
    )
}

# The whole configuration as containerd understands it; without a file its defaults.
dump() {
    if [ -f "$destdir$main" ]; then
        on_node "$containerd" --config "$main" config dump
    else
        on_node "$containerd" config default
    fi
}

handlers() {
    dump | sed -nE "s/^ *\[plugins\..*\.containerd\.runtimes\.([^].]+)\]$/\1/p" | sort
}

handlers_of_others() {
    handlers | grep -vxE 'kata|kata-qemu' || true
}

# How many of ours containerd knows.
our_handlers() {
    handlers | grep -cxE 'kata|kata-qemu' || true
}

read_text() {
    text=
    [ ! -f "$1" ] || IFS= read -rd '' text <"$1" || true # It reads to the end, where it finds no zero byte.
}

# FILE: writes $text to it in one step, unless that is what it has.
write() {
    local file=$destdir$1 new=$text mode=644
    if [ -f "$file" ]; then
        read_text "$file"
        [ "$text" != "$new" ] || return 0
        mode=$(stat -c %a "$file")
    fi
    will_change
    mkdir -p "$(dirname "$file")"
    printf '%s' "$new" >"$file.kata-new"
    chmod "$mode" "$file.kata-new"
    mv "$file.kata-new" "$file"
}
