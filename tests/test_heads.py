"""What `--head` takes is what a head prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import BadSetting
from headstart.heads import ACTIVATIONS, Dense, Dropout, Flatten, Head, Pool, linear, mlp, parse

LATER = st.one_of(
    st.builds(Dense, st.integers(1, 5000), st.sampled_from(ACTIVATIONS)),
    st.builds(Dropout, st.floats(0, 1, exclude_max=True)),
)
HEADS = st.builds(
    lambda first, later: Head((*first, *later)),
    st.one_of(st.just(()), st.just((Pool(),)), st.just((Flatten(),))),
    st.lists(LATER, max_size=5),
)


@given(HEADS)
def test_a_printed_head_reads_back_as_itself(head: Head) -> None:
    assert parse(str(head)) == head


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("linear", linear()),
        ("", linear()),
        (" Linear ", linear()),
        ("dense(1024)", Head((Dense(1024),))),
        ("flatten,dense( 1024 , 'gelu' ),dropout(.5)", Head((Flatten(), Dense(1024, "gelu"), Dropout(0.5)))),
        ("pool, dense(8, relu), dropout(0.1)", mlp(8, dropout=0.1)),
    ],
)
def test_heads_are_read_as_people_write_them(text: str, head: Head) -> None:
    assert parse(text) == head


@pytest.mark.parametrize(
    "text",
    [
        "danse(10)",
        "dense",
        "dense()",
        "dense(0)",
        "dense(-3)",
        "dense(1.5)",
        "dense(10, swish)",
        "dense(10, relu, 3)",
        "dense(10",
        "dense(10))",
        "dense(10) dropout(0.5)",
        "dropout(1)",
        "dropout(nan)",
        "dropout(-0.1)",
        "pool(2)",
        "(10)",
        "dense(10), flatten",
        "pool, flatten",
        "dense(10),, dropout(0.5)",
        "linear, dense(10)",
    ],
)
def test_what_is_no_head_is_refused_with_the_notation(text: str) -> None:
    with pytest.raises(BadSetting, match=r"hint: (use pool, flatten, dense|put pool or flatten first)"):
        parse(text)


def test_a_head_says_which_cut_it_stands_on() -> None:
    assert [parse(text).input for text in ("linear", "flatten, dense(3)", "dense(3)")] == ["pooled", "map", "pooled"]
    assert [parse(text).linear for text in ("linear", "pool", "flatten", "dense(3)")] == [True, True, False, False]
