"""The run file, by hypothesis: any tree is accepted or explained, and what is accepted adds up."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import RunConfig, cross_check, parse_run_config
from launcher.config.file import apply_override
from launcher.errors import ConfigError
from tests.launcher.run_files import changed, lines_of

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    tree=st.dictionaries(
        st.sampled_from([*RunConfig.model_fields, "other"]),
        junk
        | st.dictionaries(
            st.sampled_from(["name", "train", "steps", "lr", "zero", "keep", "betas", "mode"]), junk
        ),
    )
)
def test_any_tree_is_accepted_or_explained(tree: dict[str, Any]):
    lines = ["accepted"]
    try:
        parse_run_config(tree)
    except ConfigError as error:
        lines = error.lines
    assert lines
    assert all(line and "\n" not in line for line in lines)


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(1, 64),
    micro=st.integers(1, 16),
    world=st.integers(1, 16),
    streams=st.integers(1, 16),
)
def test_accepted_arithmetic_adds_up(batch: int, micro: int, world: int, streams: int):
    tree = changed(
        data={"global_batch": batch, "streams": streams, "contrast_group": 1},
        engine={"micro_batch": micro},
        scale={"num_workers": world},
    )
    fits = batch % (micro * world) == 0 and streams % world == 0 and batch % streams == 0
    if fits:
        config = parse_run_config(tree)
        assert config.accumulation * micro * world == batch
        assert not list(cross_check(config))
    else:
        assert lines_of(tree)


@given(text=st.text(max_size=30))
def test_any_override_is_applied_or_explained(text: str):
    lines = ["applied"]
    try:
        apply_override({"run": {"name": "x"}}, text)
    except ConfigError as error:
        lines = error.lines
    assert len(lines) == 1
