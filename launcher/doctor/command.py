"""From the arguments of `gcg doctor` to its report and exit code."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from launcher.doctor.checks import CHECKS
from launcher.doctor.finding import Finding, Options, is_sound, table, tree
from launcher.doctor.isolate import Check, run_isolated
from launcher.doctor.machine import has_gpu
from launcher.errors import UserError


def run_doctor(args: argparse.Namespace) -> tuple[str, int]:
    """The report and the exit code: 1 if something failed, else 0.

    Raises:
        UserError: ``--only`` names no check.
    """
    options = Options(gpu=args.gpu or has_gpu(), data=args.data, storage=args.storage)
    findings: list[Finding] = []
    for check in _chosen(args.only):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{check.name} ...")
            sys.stderr.flush()
        findings += run_isolated(check, options)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    if args.gpu:
        findings = [_as_needed(finding) for finding in findings]
    code = 0 if is_sound(findings) else 1
    if args.json:
        return json.dumps(tree(findings, options), indent=2), code
    return table(findings), code


def _chosen(only: str | None) -> list[Check]:
    if only is None:
        return list(CHECKS)
    names = [name.strip() for name in only.split(",")]
    known = {check.name: check for check in CHECKS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"--only: {', '.join(unknown)}: no such check; choose from {', '.join(known)}"
        )
    return [check for check in CHECKS if check.name in names]


def _as_needed(finding: Finding) -> Finding:
    """On a machine that is meant to have GPUs, nothing of them may be missing."""
    needs = ("gpu", "nccl", "nvdec")
    missing = finding.state == "missing" and finding.check.split()[0] in needs
    return replace(finding, state="failed") if missing else finding
