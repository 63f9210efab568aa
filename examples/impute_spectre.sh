#!/bin/sh
# Train an imputation model on two regions of imaging mass cytometry, then use and question it on a third that it never saw:
#
#     sh examples/impute_spectre.sh [OUT]          # OUT: folder for everything (default: spectre-imputation)
#
# Wants the folder of test data (MXBRIDGE_SHARED, default ../shared) and the mxbridge command (extra: train). This is a reduced
# setting of about 3 CPU minutes; STEPS=1600 trains as long as is the default. (ROI008 is kept for the benchmark.)
set -eu

DATA="${MXBRIDGE_SHARED:-../shared}/data/imc_spectre"
OUT="${1:-spectre-imputation}"
STEPS="${STEPS:-300}"
MXBRIDGE="${MXBRIDGE:-mxbridge}"
GOOD="--files $DATA/ROI002 --files $DATA/ROI004"
NEW="--files $DATA/ROI006 --um-per-px 1"
CELLS="--labels $DATA/masks_simple/ROI006_Cell_mask.tiff --stretched-labels"
MODEL="$OUT/any-marker.safetensors"

[ -d "$DATA" ] || { echo "no test data at $DATA: set MXBRIDGE_SHARED" >&2; exit 4; }
mkdir -p "$OUT"

# 1. One model for whichever marker is missing. Counts become arcsinh(counts / 5), 1 at the 99.5 % quantile of the training
#    pixels. The lower fifth of each region is held back to choose the weights by. Killed? The same command goes on.
$MXBRIDGE train maxim --any-marker $GOOD --um-per-px 1 --scaling arcsinh:5 --cap 0.995 \
    --validation-region 0.2 --guard 32 --steps "$STEPS" --validate-every 50 --licence MIT --out "$MODEL"

# 2. The B-cell marker of the new region, as if its stain had failed: a channel in OUT/impute, its mean per cell in cells.csv,
#    and how far to trust it (six views of the same pixels; what that spread meant on the held-back rows).
$MXBRIDGE impute --marker CD20_Dy161 --model "$MODEL" $NEW $CELLS --uncertainty --out "$OUT/impute"

# 3. How good is it really? Every marker hidden in turn and compared with what was measured, beside the simplest rivals.
$MXBRIDGE evaluate --model "$MODEL" $NEW $CELLS --out "$OUT/evaluate"

# 4. Do the stains of the new region agree with each other as those of the good regions did?
$MXBRIDGE qc --model "$MODEL" $NEW --out "$OUT/qc"

echo "Everything is in $OUT"
