#!/bin/sh
# Your own clips and a table of questions: packed, labelled, trained, evaluated, reported, exported, asked.
#
#   sh examples/own_data.sh CLIPS QUESTIONS.csv [gcg train's options, such as --set optim.steps=200]
#
# CLIPS is a folder of videos; the table has the columns video, question, answer and, for multiple choice,
# a0, a1, ... (docs/benchmarks.md). All goes to runs/own; a second time it goes on from there.
set -eu
clips=$1 table=$2
shift 2
run=examples/own_data.yaml

gcg pack runs/own/data --from table --annotations "$table" --videos "$clips"
gcg label runs/own/data --config $run
gcg train $run "$@"
gcg eval runs/own/first --split test --out runs/own/results.json
gcg report runs/own/first --split test --out runs/own/report.html
test -d runs/own/model || gcg export runs/own/first --to runs/own/model --results runs/own/results.json
for clip in "$clips"/*; do
  gcg predict "$clip" "What happens?" --model runs/own/model --strip runs/own/strip.png
  break
done
