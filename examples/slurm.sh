#!/usr/bin/env bash
#SBATCH --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 --gpus-per-node=4 --time=08:00:00
head=$(hostname)                  # a batch script runs on the first node
others=$((SLURM_NNODES - 1))
srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --block &
sleep 20
[ "$others" = 0 ] ||
    srun --nodes="$others" --ntasks="$others" --exclude="$head" ray start --address="$head:6379" --block &
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    flashnas search --config search.yaml --executor ray --executor-option address="$head:6379" --out my_run --resume
