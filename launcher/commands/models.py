"""The subcommands of `gcg` that take a model away from its run, and use it."""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher.commands import say


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "export",
        help="a run's model into a folder that loads without Ray, DeepSpeed or DALI",
        description="writes weights (safetensors), configuration, tokenizers and a page with "
        "figures and fingerprints; GCGModel.from_pretrained(DIR) and GCGProcessor read it. A LoRA "
        "adapter lies in DIR/adapter as peft writes it.",
    )
    stage.add_argument("run_folder", metavar="RUN", help="a run's folder, or its URL")
    stage.add_argument("--to", required=True, metavar="DIR", help="a new folder")
    stage.add_argument(
        "--parts",
        choices=["trained", "all", "merged"],
        default="trained",
        help="trained: the frozen parts are loaded by name, as in the run; all: they are in DIR, "
        "too; merged: likewise, with adapters folded into the language model",
    )
    stage.add_argument(
        "--weights",
        choices=["final", "best", "last"],
        default="final",
        help="of a run: last is its newest checkpoint",
    )
    stage.add_argument(
        "--dtype", choices=["keep", "bf16", "fp16", "fp32"], default="keep", help="stored as"
    )
    stage.add_argument("--results", type=Path, metavar="JSON", help="of gcg eval --out; figures")
    stage.set_defaults(run=export)

    stage = stages.add_parser(
        "import-released",
        help="a checkpoint of the authors' released code as a model of ours",
        description="takes the grounding module, and the Q-Former where it goes by the names of "
        "transformers' InstructBLIP; everything else stays as CONFIG's public checkpoints have it. "
        "CONFIG says model.profile=released; sizes that differ are said.",
    )
    stage.add_argument("file", type=Path, metavar="FILE", help=".pth, .bin or .safetensors")
    stage.add_argument("config", type=Path, metavar="CONFIG", help="a run file; its model: section")
    stage.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of CONFIG, such as model.num_frames=32; may be given again",
    )
    stage.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    stage.add_argument("--parts", choices=["trained", "all"], default="trained", help="as export's")
    stage.set_defaults(run=import_released)

    stage = stages.add_parser(
        "push",
        help="an exported folder to the Hugging Face hub; lists what would be sent",
        description="without --publish nothing is sent and no network is asked.",
    )
    stage.add_argument("folder", type=Path, metavar="DIR", help="what gcg export wrote")
    stage.add_argument(
        "repository", metavar="OWNER/NAME", help="on the hub; made if it is not there"
    )
    stage.add_argument("--publish", action="store_true", help="send it")
    stage.add_argument("--private", action="store_true", help="a repository that is made now")
    stage.set_defaults(run=push)


def export(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from launcher.export.folder import export as write
    from launcher.export.folder import plan_export
    from launcher.export.run import open_run
    from launcher.storage.places import run_place

    run = open_run(run_place(args.run_folder), args.weights)
    found = plan_export(run, args.to, args.parts, args.dtype, args.results)
    size = found.saving.num_bytes
    with tqdm(total=size, desc=f"export {Path(args.to).name}", unit="B", unit_scale=True) as bar:
        files = write(found, bar.update)
    say(
        f"{args.to}: {len(found.saving.weights)} tensors"
        + (f" and {len(found.saving.adapters)} of the adapter" if found.saving.adapters else "")
        + f", {size / 1e6:.1f} MB in {len(files)} files; step {run.meta.get('step')}; "
        f"GCGModel.from_pretrained({args.to!r})"
    )
    return 0


def import_released(args: argparse.Namespace) -> int:
    from launcher.config import load_run_config
    from launcher.export.released import plan_import, write_import

    config = load_run_config(args.config, args.overrides)
    found = plan_import(args.file, config.model, args.to, args.parts, config.run.seed)
    write_import(found, args.file, args.to)
    reader = "its own Q-Former" if found.reader else "the public Q-Former: it has none by that name"
    left = f"; {len(found.left)} not read, such as {found.left[0]}" if found.left else ""
    say(f"{args.to}: {found.taken} tensors of {args.file.name}, {reader}{left}")
    return 0


def push(args: argparse.Namespace) -> int:
    from launcher.export.push import plan_push
    from launcher.export.push import push as send

    found = plan_push(args.folder, args.repository)
    for name, size in found.files.items():
        say(f"{size:>14,}  {name}")
    if not args.publish:
        say(
            f"nothing was sent; --publish sends these {len(found.files)} files to {args.repository}"
        )
        return 0
    say(send(found, private=args.private))
    return 0
