"""The page of pitfalls: its symptoms lead to their pitfalls, and each pitfall to tests that are there."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "pitfalls.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)  # without the programs
PITFALLS = re.findall(r"^\((.+)\)=\n### (.+)\n", PROSE, re.M)  # (anchor, title)
TEST_LINE = re.compile(r"^\*\*Test:\*\* (.+)$", re.M)


@cache
def functions_of(file):
    """The test functions that stand in a file, without importing it."""
    tree = ast.parse((TESTS.parent / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_there_are_enough_of_them_and_every_one_is_anchored():
    assert len(PITFALLS) >= 45
    assert len(PITFALLS) == len(re.findall(r"^### ", PROSE, re.M))


def test_every_test_named_on_the_page_exists():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", PROSE)
    assert len(named) == PROSE.count("::test_") > len(PITFALLS)
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(file)]
    assert not missing, missing


def test_each_says_what_is_done_instead_and_what_holds_it_to_that():
    found = re.split(r"^\(.+\)=\n###? ", PROSE, flags=re.M)[1:]  # the sections of pitfalls and of symptoms, in turn
    texts = [text for text in found if text.split("\n")[0] in {title for _, title in PITFALLS}]
    assert len(texts) == len(PITFALLS)
    for text in texts:
        assert text.count("\n**ppvae:** ") == 1, text
        (tests,) = TEST_LINE.findall(text)
        assert tests.startswith(("`tests/", "none")), text


def test_every_link_has_its_anchor_and_no_anchor_stands_twice():
    anchors = Counter(re.findall(r"^\((.+)\)=$", PROSE, re.M))
    assert set(anchors.values()) == {1}, anchors
    assert not set(re.findall(r"\]\(#(.+?)\)", PROSE)) - anchors.keys()


def test_the_symptoms_are_the_pitfalls_in_their_order():
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", PROSE, re.M)
    assert [(anchor, title) for title, anchor in listed] == PITFALLS
