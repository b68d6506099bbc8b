#!/bin/sh
# Makes a SoftHSM token in a private folder and prints the `export` lines that lead ziti-enroller to it:
#     exports=$(softhsm/init-token.sh DIR) && eval "$exports"
# A DIR that has its token already is used again. See README.md beside this file.
set -eu
umask 077

label=ziti-dev

die() {
  printf 'init-token.sh: %s\n' "$*" >&2
  exit 1
}

random_pin() {
  od -A n -N 8 -t x1 /dev/urandom | tr -d ' \n'
}

# The text on stdin, with $1 put in the place of @TOKENDIR@, whatever characters it has.
fill() {
  while IFS= read -r line; do
    case $line in
      *@TOKENDIR@*) printf '%s%s%s\n' "${line%%@TOKENDIR@*}" "$1" "${line#*@TOKENDIR@}" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
}

# pkcs11-tool takes PINs from the environment, so they stand on no command line; softhsm2-util takes them only there or
# from a terminal. What it says is only shown when it fails.
tool() {
  said=$(SO_PIN=$(cat "$dir/so-pin") PIN=$(cat "$dir/pin") pkcs11-tool --module "$module" "$@" 2>&1 </dev/null) ||
    die "pkcs11-tool $*: $said"
}

export_line() {
  printf "export %s='%s'\n" "$1" "$(printf '%s' "$2" | sed "s/'/'\\\\''/g")"
}

if [ $# -ne 1 ] || [ -z "$1" ]; then die 'usage: softhsm/init-token.sh DIR'; fi
command -v pkcs11-tool >/dev/null || die 'pkcs11-tool is missing: apt-get install opensc'

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
module=
for place in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
  /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
  [ -f "$place" ] && module=$place && break
done
[ -n "$module" ] || die 'libsofthsm2.so is missing: apt-get install softhsm2, or name it in SOFTHSM2_MODULE'

case $1 in /*) dir=$1 ;; *) dir=./$1 ;; esac
if [ -e "$dir" ]; then
  [ -d "$dir" ] || die "$dir is not a folder"
  [ -e "$dir/softhsm2.conf" ] || [ -z "$(ls -A "$dir")" ] || die "$dir has other things in it: name a new folder"
fi
mkdir -p "$dir"
chmod 0700 "$dir"
dir=$(CDPATH='' cd "$dir" && pwd)
# A `#` begins a comment in SoftHSM's configuration, wherever it stands.
case $dir in *'#'* | *'
'*) die "SoftHSM cannot be told of such a path: $dir" ;; esac

mkdir -p "$dir/tokens"
fill "$dir/tokens" <"$here/softhsm2.conf.in" >"$dir/softhsm2.conf"
SOFTHSM2_CONF=$dir/softhsm2.conf
export SOFTHSM2_CONF

# The PINs come first: a token never outlives an interruption without them.
tokens=$(ls -A "$dir/tokens")
for name in pin so-pin; do
  [ -s "$dir/$name" ] && continue
  [ -z "$tokens" ] || die "$dir/$name is lost, and with it the token: remove the folder"
  random_pin >"$dir/$name"
done

tool --list-token-slots
case $said in
  *": $label"*) ;;
  *)
    [ -z "$tokens" ] || die "the token in $dir is damaged: remove the folder"
    tool --slot-index 0 --init-token --label "$label" --so-pin env:SO_PIN
    tool --list-token-slots
    ;;
esac
case $said in
  *'PIN initialized'*) ;;
  *) tool --token-label "$label" --login --login-type so --so-pin env:SO_PIN --init-pin --new-pin env:PIN ;;
esac

export_line SOFTHSM2_CONF "$SOFTHSM2_CONF"
export_line ZITI_ENROLLER_MODULE "$module"
export_line ZITI_ENROLLER_TOKEN "$label"
export_line ZITI_ENROLLER_PIN_FILE "$dir/pin"
