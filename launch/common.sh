# shellcheck shell=bash
# What the launch scripts share; sourced, never run. A script that sources it defines its flags as variables, `dry_run`
# among them, and opens with a comment that is its --help.
set -euo pipefail
unset CDPATH # with it, cd prints where it went
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is needed (macOS: brew install bash)" >&2
  exit 2
fi

exec 3>&1 # where a dry run prints, also from inside $(...); what is started does not inherit it

# A user's mistake: one line and status 2.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() { printf '%s\n' "$*" >&2; }

# Words as a shell reads them back, one argument each.
quote() {
  local word separator=""
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      printf '%s%s' "$separator" "$word"
    else
      printf '%s%s' "$separator" "${word@Q}"
    fi
    separator=" "
  done
}

# Runs a command, or prints it with --dry_run; a failure ends the script with the command's own status.
run() {
  local status=0
  # shellcheck disable=SC2154  # a flag of the script that sources this
  if ((dry_run)); then
    printf '%s\n' "$(quote "$@")" >&3
    return
  fi
  "$@" 3>&- || status=$?
  if ((status)); then
    say "error: exit status $status of: $(quote "$@")"
    exit "$status"
  fi
}

# The script's opening comment.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# parse_flags "flags with a value" "switches" "flags that may be repeated" "$@"
# Sets the variable of each flag; what comes after -- lands in `overrides`, for the trainer.
parse_flags() {
  local values=" $1 " switches=" $2 " lists=" $3 " key value
  shift 3
  overrides=()
  while (($#)); do
    case $1 in
      --)
        shift
        overrides=("$@")
        break
        ;;
      -h | --help)
        usage
        exit 0
        ;;
      --config.*) fail "$1: overrides for the trainer come after --" ;;
    esac
    key=${1%%=*}
    key=${key#--}
    value=${1#*=}
    if [[ ! $key =~ ^[a-z_]+$ || $1 != --* ]]; then
      fail "$1: unknown argument; see --help"
    elif [[ $switches == *" $key "* && $1 == "--$key" ]]; then
      printf -v "$key" 1
    elif [[ $values == *" $key "* && $1 == *=* ]]; then
      printf -v "$key" '%s' "$value"
    elif [[ $lists == *" $key "* && $1 == *=* ]]; then
      local -n list=$key
      list+=("$value")
    elif [[ "$values$lists" == *" $key "* ]]; then
      fail "--$key: needs a value, as --$key=VALUE"
    else
      fail "$1: unknown argument; see --help"
    fi
    shift
  done
  for value in "${overrides[@]}"; do
    [[ $value != *[[:cntrl:]]* ]] || fail "an override holds a line break or another control character: ${value@Q}"
  done
}

# require flag ...: each must have been given.
require() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || fail "--$flag: missing; see --help"
    [[ ${!flag} != *[[:cntrl:]]* ]] || fail "--$flag: holds a line break or another control character"
  done
}

# require_number flag ...: whole numbers, 0 or more.
require_number() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--$flag=${!flag}: must be a whole number"
  done
}

# Names of cloud resources and Kubernetes objects; short enough for what is appended to them.
require_name() {
  [[ ${!1} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--$1=${!1}: must be up to 40 lower-case letters, digits and dashes, a letter first"
}
