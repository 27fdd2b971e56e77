#!/usr/bin/env bash
# Trains on TPU VMs from a queued resource: one slice or several, of one host or many, spot or on demand.
#
#   launch/tpu_vm.sh run --name=ldis1 --project=P --zone=Z --accelerator_type=v5litepod-16 \
#       --runtime_version=v2-alpha-tpuv5-lite --spot --setup='...mount the storage...' \
#       --config=configs/ldis1.py:/mnt/ldis/records --workdir=/mnt/ldis/runs/ldis1 -- --config.mesh.fsdp=16 \
#       --config.init.folder=/mnt/ldis/pretrained/ldis1
#
# Actions:
#   run     asks for the slice, waits for it, uploads the commit, trains, follows, deletes the slice at the end. A slice
#           that is taken away is asked for again, and training goes on from its checkpoint. Run it again at any time,
#           as after Ctrl-C: what exists is reused, training that runs is followed and not started twice.
#   status  the queued resource's state and each host's
#   logs    the last 100 lines of every host's log
#   stop    stops training and keeps the slice, which is still billed; end a `run` that follows it first
#   delete  deletes the slice and its request
#
# Flags:
#   --name --project --zone        the queued resource
#   --slices=1                     more than one: a multislice job
#   --workdir --config             of the trainer; the work folder must outlive the VMs, and all hosts must see it
#   --accelerator_type --runtime_version --spot
#   --create_flag=--reserved       more for `gcloud compute tpus queued-resources create`; may be repeated
#   --ssh_flag=--internal-ip       more for `gcloud compute tpus tpu-vm ssh` and `scp`; may be repeated
#   --setup=COMMAND                on each host before training, such as a mount; must be safe to run twice
#   --allow_local_workdir          lets the work folder be on the VM's own disk, lost with it
#   --delete=success               when training ends, delete the slice after success, always (also after a failure)
#                                  or never; a slice that is taken away is deleted and asked for again in any case
#   --max_failures=3               restarts after training fails on a healthy slice; also the limit of starts, or of
#                                  requests for a slice, that fail in a row
#   --stop_seconds=300             from SIGTERM to SIGKILL
#   --poll_seconds=60
#   --dry_run                      prints the commands of a run in which all goes well, and runs none
#   -- ...                         goes to the trainer

source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

name="" project="" zone="" slices=1 workdir="" config="" accelerator_type="" runtime_version="" setup=""
delete=success max_failures=3 stop_seconds=300 poll_seconds=60 spot=0 allow_local_workdir=0 dry_run=0
create_flag=() ssh_flag=()

action=${1:-}
case $action in
  run | status | logs | stop | delete) shift ;;
  -h | --help) ;;
  *) fail "${action:-no action}: must be run, status, logs, stop or delete; see --help" ;;
esac
parse_flags "name project zone slices workdir config accelerator_type runtime_version setup delete max_failures \
stop_seconds poll_seconds" "spot allow_local_workdir dry_run" "create_flag ssh_flag" "$@"
require name project zone
require_name name
require_number slices max_failures stop_seconds poll_seconds
((slices)) || fail "--slices=0: at least 1"
case $delete in success | always | never) ;; *) fail "--delete=$delete: must be success, always or never" ;; esac
if [[ $action == run ]]; then
  require workdir config accelerator_type runtime_version
  [[ $workdir == /* ]] || fail "--workdir=$workdir: must be an absolute path on storage mounted on every host"
fi

place=("--project=$project" "--zone=$zone")
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done # as gcloud names the nodes of --node-prefix
fi
arguments=("--config=$config" "--workdir=$workdir" --multihost --stopped_status=143 "${overrides[@]}")
id=$(printf '%s\0' "${arguments[@]}" | cksum | tr ' ' -)
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if ((dry_run)); then
  scratch=${TMPDIR:-/tmp}
else
  scratch=$(mktemp -d)
  trap 'rm -rf -- "$scratch"' EXIT
fi
dry_state=NONE dry_hosts=none # what a dry run pretends to see

# --- The queued resource ---

# Prints its state, NONE where there is no such resource.
queued_state() {
  local state status=0
  local command=(gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)')
  if ((dry_run)); then
    run "${command[@]}"
    echo "$dry_state"
    return
  fi
  state=$("${command[@]}" 2>"$scratch/errors" 3>&-) || status=$?
  if ((status == 0)); then
    echo "${state:-STATE_UNSPECIFIED}"
  elif grep -q NOT_FOUND "$scratch/errors"; then
    echo NONE
  else
    cat "$scratch/errors" >&2
    say "error: exit status $status of: $(quote "${command[@]}")"
    return "$status"
  fi
}

create() {
  local flags=(--node-id="$name")
  ((slices == 1)) || flags=(--node-count="$slices" --node-prefix="$name")
  ((spot == 0)) || flags+=(--spot)
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" --accelerator-type="$accelerator_type" \
    --runtime-version="$runtime_version" "${flags[@]}" "${create_flag[@]}" --quiet
}

# --force deletes the nodes too, in any state; returns when they are gone.
delete_all() { run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet; }

# Whether a node was taken away; the nodes say so before the queued resource does.
node_lost() {
  local state node
  ((!dry_run)) || return 1
  for node in "${nodes[@]}"; do
    state=$(gcloud compute tpus tpu-vm describe "$node" "${place[@]}" '--format=value(state)' 2>/dev/null 3>&-) ||
      continue
    case $state in PREEMPTED | TERMINATED) return 0 ;; esac
  done
  return 1
}

lost() {
  local state
  node_lost || { state=$(queued_state) && [[ $state != ACTIVE ]]; }
}

# --- Its hosts ---

alive_flag=-oServerAliveInterval=30 # or an ssh to a VM that is gone never ends

# on_hosts COMMAND: over ssh on every host of every slice, the slices at the same time; fails where one does.
on_hosts() {
  local node status=0 worst=0 jobs=()
  for node in "${nodes[@]}"; do
    local command=(gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --quiet "--ssh-flag=$alive_flag"
      "${ssh_flag[@]}" --command="$1")
    if ((dry_run)); then
      run "${command[@]}"
    else
      "${command[@]}" </dev/null 3>&- &
      jobs+=("$!")
    fi
  done
  for job in "${jobs[@]}"; do
    status=0
    wait "$job" || status=$?
    ((status == 0)) || worst=$status
  done
  ((worst == 0)) || say "error: exit status $worst of ssh to $(quote "${nodes[@]}"): $1"
  return "$worst"
}

host() { printf 'bash %s %s' "ldis/$name/code/launch/tpu_host.sh" "$(quote "$1" "$name" "${@:2}")"; }

# A host without our code has no host script yet, and nothing runs there.
prepared="[ -e ldis/$name/code/launch/tpu_host.sh ]"

host_status() { on_hosts "if $prepared; then $(host status "$id"); else echo ldis-host none 0 -; fi"; }

# Sets `verdict` to none, preparing, running, done, failed (also: some hosts run, others do not), fatal or other.
survey() {
  local tag word code their total=0 none=0 preparing=0 live=0 finished=0
  verdict="" worst_code=0
  if ((dry_run)); then
    host_status
    verdict=$dry_hosts
    return
  fi
  host_status >"$scratch/hosts" || return
  while read -r tag word code their; do
    [[ $tag == ldis-host ]] || continue
    total=$((total + 1))
    case $word in
      none) none=$((none + 1)) ;;
      preparing) preparing=1 ;;
      running)
        live=$((live + 1))
        [[ $their == "$id" ]] || verdict=other
        ;;
      done) finished=$((finished + 1)) ;;
      failed) [[ $worst_code == 2 ]] || worst_code=$code ;;
    esac
  done <"$scratch/hosts"
  ((total)) || return 1
  if [[ $verdict == other ]]; then
    return
  elif ((preparing)); then
    verdict=preparing
  elif ((worst_code == 2)); then
    verdict=fatal # main's own status for bad input: trying again would not help
  elif ((none == total)); then
    verdict=none
  elif ((finished == total)); then
    verdict="done"
  elif ((live && live + finished == total)); then
    verdict=running
  else
    verdict=failed
  fi
}

# Installs everywhere before it starts anywhere: hosts wait five minutes for each other, not longer. Runs in a subshell
# whose status is looked at, where errexit has no effect. Status 75: a host is at it already.
launch() {
  local archive=$scratch/ldis-$name.tar.gz node to=ldis/$name prepare
  say "uploading $(git -C "$root" log -1 --format='commit %h (%s)' "$commit")"
  [[ -z $(git -C "$root" status --porcelain --untracked-files=no) ]] ||
    say "note: what is not committed is not uploaded"
  run git -C "$root" archive --format=tar.gz --output="$archive" "$commit"
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:ldis-$name.tar.gz" "${place[@]}" --worker=all --quiet \
      "--scp-flag=$alive_flag" "${ssh_flag[@]}"
  done
  # The lock is training's own: the code of what runs stays, as does that of a `prepare` that goes on without its `run`.
  # --close: what --setup leaves running shall not hold it. Tar's own status 2 is not a refusal.
  prepare="rm -rf $to/id $to/pid $to/code && mkdir $to/code && \
{ tar -xzf ldis-$name.tar.gz -C $to/code || exit 1; } && \
$(host prepare "$workdir" "$allow_local_workdir" "$setup")"
  on_hosts "mkdir -p $to && flock --timeout 5 --close --conflict-exit-code 75 $to/lock bash -c $(quote "$prepare")" ||
    exit
  on_hosts "$(host start "$id" "${arguments[@]}")"
}

stop_training() { on_hosts "if $prepared; then $(host stop "$stop_seconds"); fi"; }

kept() {
  say "the slice is kept and billed; to delete it: $(quote "$0" delete --name="$name" "${place[@]}" --slices="$slices")"
}

# give_up MESSAGE STATUS [never|nothing]: never where training may run that is not seen, or not ours.
give_up() {
  say "error: $1"
  case ${3:-$delete} in
    always) delete_all ;;
    nothing) ;; # there is none to delete or to keep
    *) kept ;;
  esac
  exit "$2"
}

# --- One loop for everything: look, then do the one thing that is due ---

# Whether create or delete_all worked. At first a refusal is an error of ours, and final; later it may be a moment's, or
# what is described may lag behind what is.
change() {
  local status=0
  ("$1") || status=$?
  if ((status)); then
    [[ -n $seen ]] && ((refused++ < 5)) || exit "$status"
    sleep "$poll_seconds"
    return 1
  fi
  refused=0
}

train() {
  local state seen="" verdict="" status failures=0 unstarted=0 misses=0 unanswered=0 refused=0 unmet=0
  local launched=0 alive=0 was_active=0
  trap 'say "stopped following; training that has begun goes on. The same command follows it."; kept; exit 130' INT
  while true; do
    status=0
    state=$(queued_state) || status=$?
    if ((status)); then
      # Before the first answer it is an error of ours; later, perhaps, of the network here.
      [[ -n $seen ]] && ((unanswered++ < 5)) || exit "$status"
      sleep "$poll_seconds"
      continue
    fi
    unanswered=0
    [[ $state == "$seen" ]] || say "$name: $state"
    case $state in
      NONE)
        [[ $verdict != "done" ]] || exit 0 # the deletion seemed to fail
        ((!alive)) || { say "error: $name was deleted by someone else; not asking for it again" && exit 1; }
        launched=0 was_active=0
        if change create; then dry_state=ACTIVE; fi
        ;;
      SUSPENDED | FAILED | PREEMPTED)
        # FAILED before it was ever ACTIVE: a request that could not be met, which may stay so.
        if [[ $state == FAILED && -n $seen ]] && ((!was_active)); then
          ((unmet++ < max_failures)) || give_up "the request for $name failed $unmet times" 1 nothing
          sleep "$poll_seconds"
        fi
        alive=0
        change delete_all || true
        ;;
      SUSPENDING | DELETING | STATE_UNSPECIFIED) sleep "$poll_seconds" ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING)
        alive=1
        sleep "$poll_seconds"
        ;;
      ACTIVE)
        alive=1 was_active=1 unmet=0 status=0
        survey || status=$?
        if ((status == 0)); then
          misses=0
          act
        elif node_lost; then
          say "$name: a node was taken away"
          alive=0
          change delete_all || true
        else
          ((misses++ < 5)) || give_up "the hosts do not answer" "$status" never
          sleep "$poll_seconds"
        fi
        ;;
      *) give_up "$name: unknown state $state" 1 never ;;
    esac
    seen=$state
  done
}

# The hosts have answered.
act() {
  local status=0
  case $verdict in
    preparing)
      say "the hosts are being prepared already; waiting"
      sleep "$poll_seconds"
      return
      ;;
    running)
      ((launched)) || say "training runs; following"
      launched=1
      sleep "$poll_seconds"
      return
      ;;
    done)
      say "training is done; results are in $workdir"
      if [[ $delete == never ]]; then kept; else change delete_all || return 0; fi
      exit 0
      ;;
    other) give_up "another command trains on $name; stop or delete it first" 1 never ;;
    failed | fatal)
      if ((launched)); then
        # A slice that is taken away looks like this at first.
        sleep "$poll_seconds"
        if lost; then return; fi
        on_hosts "$(host log 30)" >&2 || true
        [[ $verdict != fatal ]] || give_up "the trainer refuses this command (above)" 2
        ((failures++ < max_failures)) || give_up "training failed $failures times, last with status $worst_code" 1
        say "training failed with status $worst_code; starting it again"
        launched=0 # this failure is counted, should it be seen again
      fi
      stop_training || status=$?
      ;;
  esac
  ((status)) || (launch) || status=$?
  if ((status == 0)); then
    launched=1 unstarted=0 dry_hosts="done"
    return
  fi
  ((status != 2)) || give_up "could not start training" 2
  sleep "$poll_seconds" # a slice that is taken away looks like this at first
  if ((status == 75)); then
    say "hosts are being prepared, or train; looking again"
  elif lost; then
    say "$name: lost before training began" # the loop asks for it again
  else
    ((unstarted++ < max_failures)) || give_up "could not start training" "$status"
    say "could not start training; trying again"
  fi
}

case $action in
  run)
    commit=HEAD # fixed now: the checkout may be another by the time a slice is lost
    ((dry_run)) || commit=$(run git -C "$root" rev-parse HEAD)
    train
    ;;
  status)
    state=$(queued_state)
    say "$name: $state"
    [[ $state != ACTIVE ]] || on_hosts "bash ldis/$name/code/launch/tpu_host.sh status $name - || true"
    ;;
  logs) on_hosts "$(host log 100)" ;;
  stop) stop_training ;;
  delete)
    state=$(queued_state)
    if [[ $state == NONE ]] && ((!dry_run)); then say "$name: nothing to delete"; else delete_all; fi
    ;;
esac
