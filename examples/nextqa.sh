#!/bin/sh
# NExT-QA from the folders that its authors publish, to its official figures.
#
#   sh examples/nextqa.sh ANNOTATIONS VIDEOS [--set KEY=VALUE ...]
#
# ANNOTATIONS has train.csv and val.csv (and map_vid_vidorID.json); VIDEOS the clips, at any depth. Settings
# are the run file's, for labels and training alike. All goes to runs/nextqa; again, it goes on from there.
set -eu
annotations=$1 videos=$2
shift 2
run=examples/nextqa.yaml out=runs/nextqa

for split in train val; do
  gcg pack $out/data/$split --from nextqa --annotations "$annotations/$split.csv" --videos "$videos" \
    --min-shards "${SHARDS:-512}"
done
gcg label $out/data/train --config $run "$@"
gcg train $run "$@"
gcg eval $out/grounding --split val --benchmark nextqa --write-predictions $out/answers
gcg score nextqa --annotations "$annotations/val.csv" --predictions $out/answers/grounding/predictions.json
