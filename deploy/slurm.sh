#!/usr/bin/env bash
# Trains on the GPUs of several nodes under Slurm, one process a GPU. From the repository's root, with
# a .venv that all nodes see (make setup; .venv/bin/pip install '.[cuda]'):
#   sbatch --nodes 4 deploy/slurm.sh configs/imagenet256_llamagen_l.py --workdir /shared/runs/l --mesh.fsdp 8
# (recipes have the meshes of TPU slices; the GPUs of a node share parameters fastest)
#SBATCH --job-name=igpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=igpt-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Three minutes before the time is up each process is told to save and leave.
#SBATCH --signal=TERM@180
set -euo pipefail

if [ "$#" -lt 1 ]; then
  echo "usage: sbatch [--nodes N] $0 CONFIG [--workdir DIR] [--any.field value]" >&2
  exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "error: expected to run under Slurm; start it with sbatch" >&2
  exit 2
fi

# JAX finds the other processes by Slurm's variables. Where one fails, the others end by themselves,
# and tell so; 75 says that the same command goes on.
code=0
srun --kill-on-bad-exit=0 "${IGPT_PYTHON:-.venv/bin/python}" train.py "$@" || code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
