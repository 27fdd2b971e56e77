#!/usr/bin/env bash
# Submits slurm.sbatch: GPU nodes under SLURM, one process a node.
#
#   launch/slurm.sh run --name=ldis1 --nodes=2 --gpus_per_node=8 --time=24:00:00 --sbatch_flag=--cpus-per-task=32 \
#       --config=configs/ldis1.py --workdir=/shared/runs/ldis1 -- --config.mesh.fsdp=8
#
# Actions:
#   run     submits the job, unless one of that name of yours waits or runs
#   status  what the queue says
#   stop    cancels the job; the next run goes on from its checkpoint
#
# Flags:
#   --name                         the job; SLURM never runs two of one name of yours at a time
#   --workdir --config             of the trainer; the work folder must be on a file system that all nodes share
#   --gpus_per_node --nodes=1
#   --time --partition --account   as for sbatch
#   --python=.venv/bin/python      an absolute path, or one in the repository
#   --sbatch_flag=--mem=0          more for sbatch, such as --cpus-per-task=32; may be repeated
#   --dry_run                      prints the commands, and runs none
#   -- ...                         goes to the trainer

source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# shellcheck disable=SC2034  # some are read by their name
name="" workdir="" config="" gpus_per_node="" nodes=1 time="" partition="" account="" python=.venv/bin/python dry_run=0
sbatch_flag=()

action=${1:-}
case $action in
  run | status | stop) shift ;;
  -h | --help) ;;
  *) fail "${action:-no action}: must be run, status or stop; see --help" ;;
esac
parse_flags "name workdir config gpus_per_node nodes time partition account python" dry_run sbatch_flag "$@"
require name
require_name name
if [[ $action == run ]]; then
  require workdir config gpus_per_node python
  require_number gpus_per_node nodes
  ((nodes && gpus_per_node)) || fail "--nodes=$nodes --gpus_per_node=$gpus_per_node: at least 1"
fi
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

case $action in
  run)
    jobs=$(run squeue --me "--name=$name" --noheader --format=%i)
    if [[ -n $jobs ]]; then
      say "$name: job ${jobs//$'\n'/, } waits or runs already, with the arguments it was submitted with"
      exit 0
    fi
    flags=("--job-name=$name" "--nodes=$nodes" "--gpus-per-node=$gpus_per_node" "--chdir=$root")
    for flag in time partition account; do
      [[ -z ${!flag} ]] || flags+=("--$flag=${!flag}")
    done
    # singleton: should another be submitted at this moment, it waits for this one's end.
    run env "LDIS_PYTHON=$python" sbatch "${flags[@]}" --dependency=singleton "${sbatch_flag[@]}" \
      "$root/launch/slurm.sbatch" "--config=$config" "--workdir=$workdir" "${overrides[@]}"
    ;;
  status) run squeue --me "--name=$name" ;;
  stop) run scancel --me "--name=$name" ;;
esac
