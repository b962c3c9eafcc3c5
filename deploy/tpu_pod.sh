#!/usr/bin/env bash
# Trains on all hosts of a TPU slice, from this machine. The slice is there already:
#   gcloud compute tpus tpu-vm create NAME --zone ZONE --accelerator-type v5litepod-256 --version v2-alpha-tpuv5-lite
# Then, from the repository's root, with a bucket (or a folder that all hosts see: NFS, Filestore):
#   deploy/tpu_pod.sh NAME ZONE configs/imagenet256_llamagen_3b.py --workdir gs://BUCKET/3b
# IGPT_DATA, if it is set, is handed on. The hosts need Python 3.11 or newer: HOST_PYTHON names theirs.
set -euo pipefail

if [ "$#" -lt 3 ]; then
  echo "usage: $0 NAME ZONE CONFIG [--workdir DIR] [--any.field value]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"
}

on_all_hosts 'mkdir -p igpt'
gcloud compute tpus tpu-vm scp --recurse --zone "$zone" --worker=all \
  igpt_jax configs train.py pyproject.toml constraints.txt README.md LICENSE "$name":igpt
on_all_hosts "cd igpt && ${HOST_PYTHON:-python3} -m venv .venv \
  && .venv/bin/pip install -q -c constraints.txt '.[tpu,gcs]'"

printf -v arguments '%q ' "$@"
printf -v data '%q' "${IGPT_DATA:-}"
# JAX finds the other hosts of a slice by itself. 75 says that all is saved, or that another host is
# gone: the same command goes on, on every host.
on_all_hosts "cd igpt && export IGPT_DATA=$data
while true; do
  code=0
  .venv/bin/python train.py $arguments || code=\$?
  [ \"\$code\" -eq 75 ] || exit \"\$code\"
  sleep \"\${IGPT_PAUSE:-10}\"
done"
