# shellcheck shell=bash
# Files put below $destdir, each noted with its hash in $manifest, and taken away again. What somebody has edited is kept.
# For tools/dev and for deploy/kata-deploy.sh, which say `say`, $destdir and $manifest.

# Begins a list of what is put; end_files makes it the manifest.
begin_files() {
    mkdir -p "$(dirname "$manifest")"
    : >"$manifest.new"
}

end_files() {
    mv "$manifest.new" "$manifest"
}

# MODE FROM TO: copies a file into place in one step and notes it. An equal one is not touched.
put() {
    local mode=$1 from=$2 to=$3
    if [ -L "$destdir$to" ] || ! cmp -s "$from" "$destdir$to" || [ "$(stat -c %a "$destdir$to")" != "$mode" ]; then
        mkdir -p "$(dirname "$destdir$to")"
        install -m "$mode" "$from" "$destdir$to.tmp"
        mv "$destdir$to.tmp" "$destdir$to"
    fi
    printf '%s %s\n' "$(hash_of "$destdir$to")" "$to" >>"$manifest.new"
}

# FROM TO: the same for a configuration: beside an edited one goes the new one.
put_configuration() {
    local from=$1 to=$2
    if is_edited "$to"; then
        say "kept: $destdir$to, which is not as installed; the new one is beside it as $(basename "$to").new"
        put 644 "$from" "$to.new"
        printf '%s %s\n' "$(hash_of "$from")" "$to" >>"$manifest.new"
    else
        put 644 "$from" "$to"
    fi
}

# Removes what the manifest notes, and the manifest.
take_away_files() {
    local hash path
    while read -r hash path; do
        if [ "$(hash_of "$destdir$path")" = "$hash" ]; then
            rm -f "$destdir$path"
        elif [ -e "$destdir$path" ]; then
            say "kept: $destdir$path, which is not as installed"
        fi
    done <"$manifest"
    rm -f "$manifest"
}

hash_of() {
    [ ! -f "$1" ] || sha256sum <"$1" | cut -d ' ' -f 1
}

# Whether there is a file that no earlier installation put there as it is now.
is_edited() {
    [ -e "$destdir$1" ] && ! grep -qxF "$(hash_of "$destdir$1") $1" "$manifest" 2>/dev/null
}
