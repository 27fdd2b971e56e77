#!/usr/bin/env bash
# One host's side of tpu_vm.sh, which uploads it with the code and calls it over ssh; not meant to be called by hand.
#
#   tpu_host.sh prepare NAME WORKDIR LOCAL SETUP   runs SETUP, checks WORKDIR (LOCAL=1: any will do), installs
#   tpu_host.sh start NAME ID ARGUMENT...          trains in the background, unless training runs
#   tpu_host.sh status NAME ID                     prints "ldis-host WORD STATUS ID", ID -: any; the word is none,
#                                                  preparing, running, done or failed
#   tpu_host.sh stop NAME SECONDS                  SIGTERM, and SIGKILL after so many seconds
#   tpu_host.sh log NAME LINES                     the log's last lines
#
# ID names the training command. A lock that the training process holds says whether it runs: it cannot go stale.
# tpu_vm.sh calls prepare under the same lock, for it begins with a new code folder.

set -euo pipefail

base=$HOME/ldis/$2

fail() {
  printf 'error: %s: %s\n' "$(hostname)" "$*" >&2
  exit 2
}

# Shared: two that look at the same time do not see each other.
held() { [[ -e $base/lock ]] && ! flock --shared --nonblock "$base/lock" true; }

stored() { cat "$base/$1" 2>/dev/null || true; }

# The deepest folder above a path that exists must be neither the boot disk nor memory: both go when the VM goes.
check_outlives_vm() {
  local path=$1
  [[ $path == /* ]] || fail "--workdir=$1: must be an absolute path"
  while [[ ! -e $path ]]; do path=$(dirname -- "$path"); done
  local device
  device=$(stat --format=%d -- "$path")
  for local_path in / "$HOME" /dev/shm; do
    if [[ -e $local_path && $device == "$(stat --format=%d -- "$local_path")" ]]; then
      fail "--workdir=$1: lies on this VM's own disk or in its memory and would go with it; mount storage that stays" \
        "(--setup), or pass --allow_local_workdir"
    fi
  done
}

# Status 2, not tried again, is for what fail refuses: uv's own 2 may be the network.
prepare() {
  local workdir=$1 allow_local=$2 setup=$3
  [[ -z $setup ]] || bash -c "$setup" || exit 1
  [[ $allow_local == 1 ]] || check_outlives_vm "$workdir"
  # TPU VM images bring Python 3.10, older than ldis_jax needs; uv brings its own where the system has none.
  [[ -x $base/venv/bin/python ]] || {
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv || exit 1
    python3 -m uv venv --quiet --python=3.12 "$base/venv" || exit 1
  }
  cd "$base/code"
  python3 -m uv pip install --quiet --python="$base/venv/bin/python" -c constraints.txt -e '.[tpu]' || exit 1
}

start() {
  local id=$1
  shift
  exec 9>>"$base/lock"
  flock --timeout 5 9 || return 0 # not at once: it may be one that only looks
  rm -f "$base/status"
  printf '%s\n' "$id" >"$base/id"
  cd "$base/code"
  # The wrapper lives on through SIGTERM, which goes to the whole group, to write down how training ended.
  # shellcheck disable=SC2016  # expanded by the inner bash
  PYTHONUNBUFFERED=1 setsid bash -c 'trap : TERM; "${@:2}"; echo $? >"$1"' training "$base/status" \
    "$base/venv/bin/python" -m ldis_jax.main "$@" </dev/null >>"$base/log" 2>&1 &
  printf '%s\n' "$!" >"$base/pid"
}

status() {
  local id=$1 code
  [[ $id != - ]] || id=$(stored id)
  if held; then
    if [[ -e $base/id ]]; then echo "ldis-host running 0 $(stored id)"; else echo "ldis-host preparing 0 -"; fi
    return
  fi
  code=$(stored status) # not before: it is written while the lock is held
  if [[ -z $id || $(stored id) != "$id" ]]; then
    echo "ldis-host none 0 ${id:--}"
  elif [[ $code == 0 ]]; then
    echo "ldis-host done 0 $id"
  else
    echo "ldis-host failed ${code:-137} $id" # no status: killed, or the VM was started again
  fi
}

stop() {
  local group deadline=$((SECONDS + $1))
  group=$(stored pid)
  held || return 0
  kill -TERM -- "-$group" 2>/dev/null || true
  while ((SECONDS < deadline)) && held; do sleep 0.2; done
  ! held || kill -KILL -- "-$group" 2>/dev/null || true
  flock --shared --timeout 10 "$base/lock" true # fails where it runs nevertheless
}

action=$1
shift 2
case $action in
  prepare) prepare "$@" ;;
  start) start "$@" ;;
  status) status "$@" ;;
  stop) stop "$@" ;;
  log) tail -n "$1" -- "$base/log" 2>/dev/null || true ;;
  *) fail "$action: unknown action" ;;
esac
