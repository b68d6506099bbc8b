# Sourced by softhsm/demo and tests/run: makes sure of the programs that they call. Works from the project's root.
# shellcheck shell=bash

# require_cargo: one line and 1 where cargo is missing or older than Cargo.toml asks for.
require_cargo() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  have=$({ cargo --version 2>/dev/null || true; } | awk '{ print $2 }')
  if [ -z "$have" ]; then
    echo "cargo is missing: install Rust $wanted or later (https://rustup.rs), then run this again" >&2
  elif [ "$(printf '%s\n' "$wanted" "$have" | sort -V | sed -n 1p)" != "$wanted" ]; then
    echo "cargo $have is too old: install Rust $wanted or later (https://rustup.rs), then run this again" >&2
  else
    return 0
  fi
  return 1
}

# require_tools install|look COMMAND=PACKAGE…: installs the packages whose command is missing (`install`), with
# apt-get, as root or by `sudo -n`; where it cannot, or may not (`look`), says which line would do it, and answers 1.
# Where a package has no command, a pattern for one of its files stands instead, from the root.
require_tools() {
  local may=$1 tool packages=() sudo=()
  shift
  for tool in "$@"; do
    case $tool in
      /*) compgen -G "${tool%%=*}" >/dev/null ;;
      *) command -v "${tool%%=*}" >/dev/null ;;
    esac || packages+=("${tool#*=}")
  done
  [ ${#packages[@]} -gt 0 ] || return 0

  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if [ "$may" = install ] && type apt-get "${sudo[@]:0:1}" >/dev/null 2>&1; then
    echo "installing: ${packages[*]}"
    local log
    log=$(mktemp)
    if "${sudo[@]}" apt-get update >"$log" 2>&1 </dev/null &&
      "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}" \
        >>"$log" 2>&1 </dev/null; then
      rm "$log"
      return 0
    fi
    tail -n 5 "$log" >&2
    rm "$log"
  fi
  echo "missing: ${packages[*]}. As root, on Debian or Ubuntu:" >&2
  echo "  apt-get update && apt-get install --yes --no-install-recommends ${packages[*]}" >&2
  return 1
}

# target_folder: where cargo puts what it builds.
target_folder() {
  cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}
