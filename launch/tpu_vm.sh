#!/usr/bin/env bash
# Runs a command on every host of an existing TPU VM slice.
#
#   TPU=my-slice ZONE=us-central2-b launch/tpu_vm.sh --config=configs/ldis1.py --workdir=gs://... --config.mesh.fsdp=4
#
# The work folder must be storage that every host sees.
set -euo pipefail
: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}" "${REPO:?git address of your clone}"

arguments=$(printf '%q ' --multihost "$@")
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -e
  [ -d ldis_jax ] || git clone '$REPO' ldis_jax
  cd ldis_jax && git pull --ff-only
  [ -d .venv ] || python3 -m venv .venv
  .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
  .venv/bin/python -m ldis_jax.main $arguments
"
