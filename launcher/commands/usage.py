"""Help of every command: an example that works as it stands, and completion for shells."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

# Of each command, what is typed most; a test parses each, and finds none missing.
EXAMPLES = {
    "sample-data": "gcg sample-data corpus --videos 40 --questions-per-video 8",
    "inspect": "gcg inspect clip.mp4 --frames 8 --json\ngcg inspect data/train --repair data/good",
    "pack": "gcg pack train.jsonl val.jsonl data --min-shards 64",
    "index": "gcg index tars --records manifest.jsonl",
    "extract": "gcg extract run.yaml features/train --split train",
    "label": "gcg label data/train data/val --config run.yaml\n"
    "gcg label data/val --config run.yaml --compare",
    "convert": "gcg convert run.yaml models/instructblip --dtype bf16",
    "plan": "gcg plan run.yaml --gpus 64 --gpu-memory 80",
    "doctor": "gcg doctor --gpu --storage /mnt/runs --data data/train",
    "train": "gcg train run.yaml --set optim.lr=3e-4 --set run.name=again\n"
    "gcg train run.yaml --dry-run\n"
    "gcg train run.yaml --profile",
    "submit": "gcg submit run.yaml --address http://HEAD:8265",
    "logs": "gcg logs demo",
    "jobs": "gcg jobs --json",
    "stop": "gcg stop demo",
    "checkpoints": "gcg checkpoints runs/demo/grounding\n"
    "gcg checkpoints runs/demo/grounding diff 500 650",
    "report": "gcg report runs/demo/grounding --out demo.html",
    "k8s render": "gcg k8s render run.yaml --nodes 2 "
    f"--image ghcr.io/you/gcg-train@sha256:{8 * '0123abcd'} --out exp7",
    "k8s check": "gcg k8s check exp7\nkubectl kustomize exp7 | gcg k8s check -",
    "k8s drain": "gcg k8s drain --seconds 240",
    "eval": "gcg eval runs/uniform runs/grounding --split test --out results.json\n"
    "gcg eval runs/grounding --benchmark nextqa --write-predictions answers",
    "score": "gcg score nextqa --annotations val.csv --predictions answers.json --json",
    "export": "gcg export runs/demo/grounding --to models/demo --parts merged "
    "--results results.json",
    "import-released": "gcg import-released gcg.pth run.yaml --to models/released",
    "push": "gcg push models/demo you/gcg-demo\ngcg push models/demo you/gcg-demo --publish",
    "predict": 'gcg predict clip.mp4 "what does the boy do" --model models/demo --strip strip.png\n'
    "gcg predict questions.jsonl --model models/demo --out answers.jsonl",
    "demo-ui": "gcg demo-ui runs/uniform runs/grounding runs/oracle --split test\n"
    "gcg demo-ui models/demo --data data/test",
    "completion": "gcg completion bash > ~/.local/share/bash-completion/completions/gcg",
}
# Said once for all commands that have them.
_HELP = {
    "action": "what to do",
    "annotations": "the benchmark's own file",
    "config": "the run file, YAML, or a folder of them",
    "dtype": "stored as",
    "folder": "to write into",
    "format": "tars, or MosaicML's shards",
    "job": "a run's name, for its newest job, or a job",
    "json": "print JSON, for a program",
    "out": "to write into",
    "overrides": "a setting of the run file, such as optim.lr=3e-4; may be given again",
    "overwrite": "write over what is there",
    "places": "files, packed folders, URLs",
    "question_tokens": "tokens of a question",
    "questions_per_video": "of a clip",
    "seed": "another makes others",
    "shell": "which one",
    "repository": "on the hub",
    "split": "data.SPLIT of the run file",
    "videos": "how many clips, or the folder that has them",
    "weights": "of the best validation, or of the last step",
    "writer": "of the sentence that says what a question is about",
}


class _Formatter(argparse.HelpFormatter):
    """Wraps what is described; lines of examples stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example"):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


def commands(
    parser: argparse.ArgumentParser, above: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its words behind `gcg`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, stage in action.choices.items():
                yield from commands(stage, f"{above} {name}".strip())
            return
    yield above, parser


def complete_help(parser: argparse.ArgumentParser) -> None:
    """Give every command its example, and arguments that are alike everywhere the same words."""
    for name, stage in commands(parser):
        lines = EXAMPLES[name].splitlines()
        stage.formatter_class = _Formatter
        head = "example:" if len(lines) == 1 else "examples:"
        stage.epilog = "\n".join([head, *(f"  {line}" for line in lines)])
        for action in stage._actions:
            if not action.help:
                action.help = _HELP[action.dest]
                if action.default not in (None, False, []):
                    action.help += f"; {action.default}"


def add_completion(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "completion",
        help="print a shell's completion of commands, options and choices",
        description="In zsh: a file _gcg in a folder of $fpath; in tcsh: a file to source.",
    )
    stage.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    stage.set_defaults(run=_completion)


def _completion(args: argparse.Namespace) -> int:
    import shtab

    from launcher.cli import build_parser
    from launcher.commands import say

    say(shtab.complete(build_parser(), args.shell))
    return 0
