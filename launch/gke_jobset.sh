#!/usr/bin/env bash
# Trains on GKE as a JobSet: one TPU slice or several, in a cluster that has the JobSet controller and TPU node pools.
#
#   launch/gke_jobset.sh run --name=ldis1 --context=CONTEXT --image=REGION-docker.pkg.dev/P/R/ldis:tpu \
#       --accelerator=tpu-v6e-slice --topology=4x4 --bucket=BUCKET --service_account=SA \
#       --config=configs/ldis1.py:/mnt/ldis/records --workdir=/mnt/ldis/runs/ldis1 -- --config.mesh.fsdp=16 \
#       --config.init.folder=/mnt/ldis/pretrained/ldis1
#
# Actions:
#   run     applies the JobSet. One that waits or runs is left as it is; one that failed is deleted and made again, and
#           goes on from its checkpoint; one that completed is left.
#   render  prints the YAML, for `kubectl apply -f -` or a repository of manifests
#   status  the JobSet and its Pods
#   logs    follows the log of the first host
#   delete  deletes it; node pools are yours, and are billed until they are scaled down
#
# Flags:
#   --name --context               the JobSet, and kubectl's context (kubectl config get-contexts)
#   --namespace=default
#   --workdir --config             of the trainer; the work folder must be under --mount
#   --image                        from launch/Dockerfile with --build-arg=JAX=tpu
#   --accelerator --topology       of the node pools, such as tpu-v6e-slice and 4x4
#   --chips_per_host=4
#   --slices=1
#   --spot                         onto spot nodes
#   --bucket or --claim            what is mounted: a Cloud Storage bucket, or a PersistentVolumeClaim (ReadWriteMany)
#   --mount=/mnt/ldis              where
#   --service_account=default      Kubernetes' account with access to the bucket
#   --queue=NAME                   Kueue's LocalQueue, where the cluster uses Kueue
#   --max_restarts=100             each preemption is one
#   --grace_seconds=120            from SIGTERM to SIGKILL; spot nodes give less
#   --dry_run                      prints the commands and the YAML, and runs nothing
#   -- ...                         goes to the trainer

source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

name="" context="" namespace=default workdir="" config="" image="" accelerator="" topology="" chips_per_host=4
slices=1 bucket="" claim="" mount=/mnt/ldis service_account=default queue="" max_restarts=100 grace_seconds=120
spot=0 dry_run=0

action=${1:-}
case $action in
  run | render | status | logs | delete) shift ;;
  -h | --help) ;;
  *) fail "${action:-no action}: must be run, render, status, logs or delete; see --help" ;;
esac
parse_flags "name context namespace workdir config image accelerator topology chips_per_host slices bucket claim mount \
service_account queue max_restarts grace_seconds" "spot dry_run" "" "$@"
mount=${mount%/}
require name namespace
require_name name
if [[ $action != render ]]; then require context; fi
if [[ $action == run || $action == render ]]; then
  require workdir config image accelerator topology mount service_account
  require_number chips_per_host slices max_restarts grace_seconds
  ((slices)) || fail "--slices=0: at least 1"
  [[ $topology =~ ^[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}$ ]] ||
    fail "--topology=$topology: must be such as 4x4 or 2x2x4"
  chips=$((${topology//x/*}))
  ((chips_per_host && chips % chips_per_host == 0)) ||
    fail "--topology=$topology: $chips chips do not make hosts of --chips_per_host=$chips_per_host"
  [[ -n $bucket && -z $claim || -z $bucket && -n $claim ]] || fail "--bucket or --claim: exactly one must be given"
  [[ $workdir == "$mount"/* ]] || fail "--workdir=$workdir: must be under --mount=$mount, or it goes with its Pod"
fi
kubectl=(kubectl "--context=$context" "--namespace=$namespace")
# Until its Pods are gone, too: they have --grace_seconds to write, and the next ones the same work folder.
delete=(delete jobset "$name" --ignore-not-found --wait --cascade=foreground)

# A string as JSON, which is YAML; values hold no control characters.
json() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# A list of strings, in which Kubernetes does not expand $(VARIABLE).
json_list() {
  local separator="[" word
  for word in "$@"; do
    printf '%s' "$separator"
    json "${word//\$/\$\$}"
    separator=", "
  done
  printf ']'
}

render() {
  local -A values=(
    [NAME]=$(json "$name") [LABELS]="{}" [MAX_RESTARTS]=$max_restarts [SLICES]=$slices [GRACE]=$grace_seconds
    [HOSTS]=$((chips / chips_per_host)) [CHIPS]=$chips_per_host [IMAGE]=$(json "$image") [MOUNT]=$(json "$mount")
    [SERVICE_ACCOUNT]=$(json "$service_account") [POD_ANNOTATIONS]="{}"
    [ARGUMENTS]=$(json_list "--config=$config" "--workdir=$workdir" --multihost --stopped_status=143 "${overrides[@]}")
  )
  [[ -z $queue ]] || values[LABELS]="{\"kueue.x-k8s.io/queue-name\": $(json "$queue")}"
  local nodes
  nodes="\"cloud.google.com/gke-tpu-accelerator\": $(json "$accelerator")"
  nodes+=", \"cloud.google.com/gke-tpu-topology\": $(json "$topology")"
  ((!spot)) || nodes+=', "cloud.google.com/gke-spot": "true"'
  values[NODE_SELECTOR]="{$nodes}"
  if [[ -n $bucket ]]; then
    values[POD_ANNOTATIONS]='{"gke-gcsfuse/volumes": "true"}'
    values[VOLUME]="csi: {\"driver\": \"gcsfuse.csi.storage.gke.io\", \"volumeAttributes\": {\"bucketName\": \
$(json "$bucket"), \"mountOptions\": \"implicit-dirs\"}}"
  else
    values[VOLUME]="persistentVolumeClaim: {\"claimName\": $(json "$claim")}"
  fi

  # From left to right, so that nothing in a value is taken for a placeholder.
  local line rest
  while IFS= read -r line; do
    rest=$line
    while [[ $rest =~ ^([^@]*)@([A-Z_]+)@(.*)$ ]]; do
      printf '%s%s' "${BASH_REMATCH[1]}" "${values[${BASH_REMATCH[2]}]}"
      rest=${BASH_REMATCH[3]}
    done
    printf '%s\n' "$rest"
  done < <(sed '/^apiVersion/,$!d' "$(dirname -- "${BASH_SOURCE[0]}")/jobset.yaml")
}

apply() {
  local yaml status=0
  yaml=$(render)
  if ((dry_run)); then
    printf "%s <<'YAML'\n%s\nYAML\n" "$(quote "${kubectl[@]}" apply -f -)" "$yaml"
    return
  fi
  "${kubectl[@]}" apply -f - <<<"$yaml" 3>&- || status=$?
  if ((status)); then
    say "error: exit status $status of: $(quote "${kubectl[@]}" apply -f -)"
    exit "$status"
  fi
}

# "": there is none; else "NAME " and the types of the conditions that hold, such as Completed or Failed.
found() {
  run "${kubectl[@]}" get jobset "$name" --ignore-not-found \
    '-o=jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}'
}

case $action in
  render) render ;;
  run)
    state=$(found)
    case " $state " in
      "  ") apply ;;
      *" Completed "*) say "$name: completed; results are in $workdir. To train on, delete it first" ;;
      *" Failed "*)
        say "$name: failed; making it again"
        run "${kubectl[@]}" "${delete[@]}"
        apply
        ;;
      *) say "$name: waits or runs already, with the arguments it was made with" ;;
    esac
    ;;
  status)
    run "${kubectl[@]}" get jobset "$name"
    run "${kubectl[@]}" get pods "--selector=jobset.sigs.k8s.io/jobset-name=$name" -o=wide
    ;;
  logs)
    first=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0
    run "${kubectl[@]}" logs -f "--selector=$first" --container=ldis --tail=-1
    ;;
  delete) run "${kubectl[@]}" "${delete[@]}" ;;
esac
