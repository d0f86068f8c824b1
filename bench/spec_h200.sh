#!/usr/bin/env bash
# Speculation on one GPU: tests, lossless output, then time at the size of the 12B model with a forced acceptance (SYNTHETIC: random weights guess nothing).
#   bench/spec_h200.sh BUILD [OUT]     BUILD: the build folder, as build/cuda; OUT: where the JSON goes; FORMATS="nvfp4 fp8 bf16": which (default: nvfp4)
# Needs about 30 GB of host memory (the weights are made there) and 20 GB on the GPU. About five minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
out=${2:-bench/results}
nibble=$build/src/app/nibble
configs=models/configs
steps=5
spec=(--speculative-algorithm NEXTN --speculative-draft-model-path $configs/gemma-4-12b-it-assistant --speculative-num-steps $steps)

echo "== lossless: the reference's small pair of models, greedy, with and without drafts"
"$nibble" bench verify-spec tests/data/mtp/target --speculative-draft-model-path tests/data/mtp/assistant --device cuda --num-prompts 200 --concurrency 1,32 --max-tokens 64
"$nibble" bench verify-spec tests/data/mtp/target --speculative-draft-model-path tests/data/mtp/assistant --device cuda --num-prompts 200 --concurrency 1,32 --max-tokens 64 --kv-cache-dtype fp8_e4m3
if [ -e models/demo/assistant/config.json ]; then
  "$nibble" bench verify-spec demo --device cuda --num-prompts 200 --concurrency 1,32
fi

offline() {  # format, batch, further flags
  local format=${1#bf16} batch=$2
  format=${format:+-$format}
  shift 2
  "$nibble" bench offline "$configs/gemma-4-12b-it$format" --load-format dummy --device cuda --kv-cache-dtype fp8_e4m3 --batch "$batch" --input-len 145 --output-len 410 \
    --chunked-prefill-size 1024 --repeats 3 --out "$out" --name "spec$format-batch$batch" "${spec[@]}" "$@"
}

for format in ${FORMATS-nvfp4}; do
  echo "== 12B $format, one stream: forced 3.50 with $steps drafts always (round <= 5.4 ms, >= 650 tok/s)"
  offline "$format" 1 --force-acceptance 3.5 --speculative-adaptive off
  echo "== 12B $format, one stream: the controller (1.00: must lose less than 2 %)"
  offline "$format" 1 --force-acceptance 3.5,1.0
  echo "== 12B $format, 8 and 32 streams: the controller (3.12 at 32: >= 1.15x; 1.00: must lose less than 2 %)"
  offline "$format" 8,32 --force-acceptance 3.12,1.0
done
