#!/bin/sh
# Frames go through the frozen image encoder once; training then reads features and decodes nothing.
#
#   sh examples/feature_shards.sh runs/features [gcg train's options, such as --set optim.steps=100]
#
# VIDEOS: how many sample clips, 60 unless given. Again, it keeps what is there.
set -eu
out=$1
shift
run=examples/demo.yaml

gcg sample-data "$out/corpus" --videos "${VIDEOS:-60}" --questions-per-video 12
gcg pack "$out/corpus/train.jsonl" "$out/corpus/val.jsonl" "$out/shards" --min-shards 4
gcg label "$out/shards/train" --config $run
for split in train val; do
  gcg extract $run "$out/features/$split" --split $split \
    --set "data.train=$out/shards/train" --set "data.val=$out/shards/val"
done
gcg train $run --set "run.storage=$out" --set run.name=features --set model.input=features \
  --set "data.train=$out/features/train" --set "data.val=$out/features/val" --set data.test=null "$@"
