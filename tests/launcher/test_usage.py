"""What every command says of itself: help with an example that parses, and completion."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from launcher.cli import build_parser, main
from launcher.commands.usage import EXAMPLES, commands
from tests.conftest import ROOT

COMMANDS = dict(commands(build_parser()))


def test_every_command_has_its_example():
    assert COMMANDS.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]):
    """Every argument is explained, and every line of the examples is taken."""
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "None" not in told
    assert not [action.dest for action in COMMANDS[name]._actions if not action.help]
    for line in EXAMPLES[name].splitlines():
        assert f"  {line}\n" in told
        for part in line.partition(">")[0].split(" | "):
            words = shlex.split(part)
            if words[0] == "gcg":
                assert words[1 : 1 + len(name.split())] == name.split()
                build_parser().parse_args(words[1:])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_of_that_shell(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("sample-data", "checkpoints", "render"):
        assert word in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is absent: the script was made, and not read by it")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def complete(script: str, line: str) -> set[str]:
    """What bash offers behind a line, by the completion function."""
    words = line.split(" ")
    ask = (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '$(complete -p gcg | sed "s/.*-F \\([^ ]*\\).*/\\1/")\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc"], input=f"{script}\n{ask}", text=True, capture_output=True, check=True
    )
    return set(done.stdout.split())


def test_bash_completes(capsys: pytest.CaptureFixture[str]):
    if shutil.which("bash") is None:
        pytest.skip("bash is absent")
    main(["completion", "bash"])
    script = capsys.readouterr().out
    assert {"submit", "stop", "sample-data"} <= complete(script, "gcg s")
    assert {"render", "check", "drain"} == complete(script, "gcg k8s ")
    assert complete(script, "gcg eval --split t") == {"train", "test"}
    assert complete(script, "gcg train --dry") == {"--dry-run"}


def test_nothing_heavy_is_imported_for_help():
    """What takes seconds to import is left to the command that needs it."""
    heavy = ["torch", "ray", "transformers", "deepspeed", "numpy", "pydantic", "av", "shtab"]
    code = (
        "import sys; from launcher.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"
