#!/usr/bin/env bash
# All that LDIS promises of GPUs, measured on one in at most eight minutes (benchmarks/gpu.py says what).
#
#   benchmarks/gpu.sh prepare      where there is a network: puts into build/gpu the wheels that a machine with Python 3.12,
#                                  jax, flax, optax, orbax, torch and transformers lacks (14 MB)
#   benchmarks/gpu.sh              on that machine, which needs no network: figures go to $OUT/gpu.json (build/gpu/out)
#   benchmarks/gpu.sh --micro      tries it without a GPU, in the environment at hand (PYTHON, or python3)
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=build/gpu
out="${OUT:-$wheels/out}"
python="${PYTHON:-python3}"

if [ "${1:-}" = prepare ]; then
  mkdir -p "$wheels"
  platforms=()
  for glibc in 2_34 2_28 2_27 2_24 2_17 2_12; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
  exec "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -c constraints.txt -d "$wheels" \
    annotated-types array_record clu diffusers grain importlib_metadata importlib_resources lazy-importer \
    ml_collections portpicker pydantic pydantic_core simplejpeg tensorboardX typing-inspection
fi

mkdir -p "$out"
case " $* " in
  *" --micro "*) ;;
  *)
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
    ;;
esac
"$python" benchmarks/gpu.py --json="$out/gpu.json" "$@"
