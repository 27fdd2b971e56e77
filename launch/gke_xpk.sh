#!/usr/bin/env bash
# Trains on a GKE cluster that was made with xpk, as one of its workloads.
#
#   launch/gke_xpk.sh run --name=ldis1 --project=P --zone=Z --cluster=C --tpu_type=v6e-16 --storage=S \
#       --image=REGION-docker.pkg.dev/P/R/ldis:tpu \
#       --config=configs/ldis1.py:/mnt/ldis/records --workdir=/mnt/ldis/runs/ldis1 -- --config.mesh.fsdp=16 \
#       --config.init.folder=/mnt/ldis/pretrained/ldis1
#
# Actions:
#   run     creates the workload. One that waits or runs is left as it is; one that failed is deleted and created again,
#           and goes on from its checkpoint; one that succeeded is left.
#   status  what xpk lists
#   delete  deletes the workload; the cluster's node pools are yours, and are billed until they are scaled down
#
# Flags:
#   --name --project --zone --cluster   the workload
#   --workdir --config             of the trainer; the work folder must be on an attached storage
#   --image                        from launch/Dockerfile with --build-arg=JAX=tpu
#   --tpu_type --slices=1
#   --storage=NAME                 one that `xpk storage attach` made known to the cluster; may be repeated
#   --max_restarts=100             each preemption is one
#   --create_flag=--spot           more for `xpk workload create`; may be repeated
#   --dry_run                      prints the commands of a first run, and runs none
#   -- ...                         goes to the trainer

source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

name="" project="" zone="" cluster="" workdir="" config="" image="" tpu_type="" slices=1 max_restarts=100 dry_run=0
storage=() create_flag=()

action=${1:-}
case $action in
  run | status | delete) shift ;;
  -h | --help) ;;
  *) fail "${action:-no action}: must be run, status or delete; see --help" ;;
esac
parse_flags "name project zone cluster workdir config image tpu_type slices max_restarts" dry_run \
  "storage create_flag" "$@"
require name project zone cluster
require_name name
if [[ $action == run ]]; then
  require workdir config image tpu_type
  require_number slices max_restarts
  ((slices)) || fail "--slices=0: at least 1"
  ((${#storage[@]})) || fail "--storage: missing; without one, the work folder goes with its Pod"
fi
place=("--cluster=$cluster" "--project=$project" "--zone=$zone")

# Whether xpk lists the workload among those of a status. Its filter by name is a regular expression before xpk 1.8, and
# a part of the name since; awk is exact.
listed() {
  local output
  output=$(run xpk workload list "${place[@]}" "--filter-by-job=$name" "--filter-by-status=$1") || exit
  awk -v name="$name" '$1 == name { found = 1 } END { exit !found }' <<<"$output"
}

create() {
  local command flags=("${create_flag[@]}") item
  for item in "${storage[@]}"; do flags+=("--storage=$item"); done
  # xpk hands this to a shell, in a field where Kubernetes expands $(VARIABLE). `exec` lets SIGTERM reach the trainer.
  local arguments=("--config=$config" "--workdir=$workdir" --multihost --stopped_status=143 "${overrides[@]}")
  command="exec $(quote python -m ldis_jax.main "${arguments[@]}")"
  # Ended by a signal, a trainer is started again by default; 1 is what it exits with when another host is lost.
  run xpk workload create "${place[@]}" "--workload=$name" "--tpu-type=$tpu_type" "--num-slices=$slices" \
    "--docker-image=$image" "--max-restarts=$max_restarts" --restart-on-exit-codes=1 "${flags[@]}" \
    "--command=${command//\$/\$\$}"
}

delete() { run xpk workload delete "${place[@]}" "--workload=$name"; }

case $action in
  run)
    if ((dry_run)); then
      listed EVERYTHING || true
      create
    elif ! listed EVERYTHING; then
      create
    elif ! listed FINISHED; then
      say "$name: waits or runs already, with the arguments it was created with"
    elif listed FAILED; then
      say "$name: failed; creating it again"
      delete
      create
    else # SUCCESSFUL looks for a word that JobSet does not use
      say "$name: succeeded; results are in $workdir. To train on, delete it first"
    fi
    ;;
  status) run xpk workload list "${place[@]}" "--filter-by-job=$name" ;;
  delete) delete ;;
esac
