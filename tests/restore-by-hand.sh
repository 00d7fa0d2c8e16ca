#!/bin/sh
# Restores one artifact of a local store with standard tools alone, and checks it against its record.
#
#   restore-by-hand.sh BACKUP_DIR ARTIFACT OUTPUT [IDENTITY_FILE]
#
# BACKUP_DIR is <store>/<job>/<backup-id>: it holds record.json and data/. IDENTITY_FILE is needed
# for encrypted artifacts. Needs: zstd, b3sum, jq, and age for encrypted artifacts.
#
# It compares the number of segments, the size and the BLAKE3 of the artifact with record.json. It
# does not check the record's signature. OUTPUT appears under its name only when all of it is right.
set -eu

fail() {
    echo "restore-by-hand: $*" >&2
    exit 1
}

[ $# -eq 3 ] || [ $# -eq 4 ] || fail "usage: $0 BACKUP_DIR ARTIFACT OUTPUT [IDENTITY_FILE]"
backup=$1 artifact=$2 output=$3 identity=${4:-}
for tool in zstd b3sum jq; do
    command -v "$tool" >/dev/null || fail "\"$tool\" is not installed"
done
[ -f "$backup/record.json" ] || fail "there is no \"$backup/record.json\": without a record there is no backup"
[ ! -e "$output" ] || fail "\"$output\" exists already"

field() {
    jq -er --arg name "$artifact" '.artifacts[] | select(.name == $name) | '"$1" "$backup/record.json"
}
field .name >/dev/null || fail "the record names no artifact \"$artifact\""
size=$(field .size)
blake3=$(field .blake3)
encrypted=$(field '.encrypted | tostring')
n_segments=$(field '.segments | length')

suffix=zst
if [ "$encrypted" = true ]; then
    suffix=zst.age
    [ -n "$identity" ] || fail "artifact \"$artifact\" is encrypted: name the file of an age identity"
    command -v age >/dev/null || fail "\"age\" is not installed"
fi

# A segment too many is as wrong as one that is missing.
name=$(printf %s "$artifact" | sed 's/\./\\./g')
n_found=$(ls "$backup/data" | grep -cE "^$name\.[0-9]{4,}\.$suffix\$") || true
[ "$n_found" -eq "$n_segments" ] || fail "expected $n_segments segments of \"$artifact\", got $n_found"

partial=$output.partial.$$
trap 'rm -f "$partial" "$partial.zst"' EXIT
: >"$partial.zst"
i=1
while [ "$i" -le "$n_segments" ]; do
    segment=$backup/data/$artifact.$(printf %04d "$i").$suffix
    [ -f "$segment" ] || fail "segment \"$segment\" is missing"
    # Through a file, because sh does not see the exit code of the first command of a pipe.
    if [ "$encrypted" = true ]; then
        age --decrypt --identity "$identity" "$segment" >>"$partial.zst" || fail "could not decrypt \"$segment\""
    else
        cat "$segment" >>"$partial.zst"
    fi
    i=$((i + 1))
done
zstd --quiet --decompress --stdout "$partial.zst" >"$partial" || fail "the segments are not whole zstd frames"

got_size=$(wc -c <"$partial")
[ "$got_size" -eq "$size" ] || fail "expected $size bytes, got $((got_size))"
got_blake3=$(b3sum --no-names "$partial")
[ "$got_blake3" = "$blake3" ] || fail "expected BLAKE3 $blake3, got $got_blake3"
mv "$partial" "$output"
echo "restored \"$artifact\": $size bytes, BLAKE3 $blake3"
