#!/bin/bash
# Eight runners share the images of one job: sbatch slurm.sh
# Each array task keeps a ledger of its own (array-1, array-2 ...) beside job.toml, and takes its eighth of the images; the folder must
# lie on a file system with locks that all nodes see. `mxbridge batch status job.toml` reads all ledgers together.
#SBATCH --job-name=mxbridge-nightly
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=10:00:00
#SBATCH --requeue
#SBATCH --output=nightly-%A-%a.log

set -a; . ./nightly.env; set +a
srun mxbridge batch run job.toml --until 06:00
