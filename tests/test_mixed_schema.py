"""A DataFrame to the codes of a mixed story and back: nothing that was observed changes, and every bad cell is named."""

import numpy as np
import pandas as pd
import pytest
import torch

import ppvae
from ppvae import Problem
from ppvae.data import Schema
from ppvae.data.guess import guess

N = 80


def frame(holes=True, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=N)
    made = pd.DataFrame(
        {
            "colour": rng.choice(["red", "green", "blue"], N),
            "yes": pd.array(z > 0, dtype="boolean"),
            "size": pd.Categorical(
                np.array(["small", "medium", "large"])[np.digitize(z, [-0.5, 0.5])],
                ["small", "medium", "large"],
                ordered=True,
            ),
            "visits": rng.poisson(np.exp(2 + z)).astype("int64"),
            "smokes": (z > 0.3).astype(float),
            "income": np.exp(8 + z),
            "height": (z + 5).astype(np.float32),
            "born": pd.array(1980 + np.round(9 * z).astype(int), dtype="Int64"),
            "steps": rng.integers(1, 6, N),
            "name": [f"person {n}" for n in range(N)],
            "day": pd.date_range("2024", periods=N),
            "always": "here",
            "sex": pd.Categorical(rng.choice(["f", "m"], N)),
            "plain": z > 0.1,
        },
        index=[f"r{n}" for n in range(N)],
    )
    if holes:
        gaps = rng.random(made.shape) < 0.2
        gaps[:, [made.columns.get_loc(name) for name in ("visits", "steps", "plain")]] = False
        made = made.mask(gaps)
    return made


def kinds(schema):
    return dict(zip([column.name for column in schema.columns], schema.kinds, strict=True))


def test_kinds_are_guessed_from_types_and_values():
    schema = Schema.of(frame())
    assert kinds(schema) == {
        "colour": "categorical:3",
        "yes": "binary",
        "size": "ordinal:3",
        "visits": "count",
        "smokes": "binary",
        "income": "positive",
        "height": "real",
        "born": "real",
        "steps": "ordinal:5",
        "sex": "binary",
        "plain": "binary",
    }
    assert schema.aside == ("name", "day", "always")
    values = {column.name: column.values for column in schema.columns}
    assert values["colour"] == ("blue", "green", "red") and values["size"] == ("small", "medium", "large")
    assert values["yes"] == (False, True) and values["steps"] == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("values", "kind", "whole"),
    [
        ([0, 1, 30] * 20 + list(range(60)), "count", True),
        ([2, 3, 30] * 20 + list(range(2, 60)), "real", True),  # an age: whole, but its counting does not begin
        ([1] + [20, 21, 22, 23, 24, 25, 26, 27, 28, 29] * 10, "real", True),  # varies less than counts do
        ([0, 1, 2000] * 20 + list(range(60)), "real", True),
        ([-3, 1, 30] * 20 + list(range(60)), "real", True),
        ([1.0, 2.0, 2.0, 5.0, np.nan] * 5, "ordinal", True),
        ([1, 2, 3], "real", True),  # too few of each
        ([3.0, 7.0] * 9, "binary", True),
        (list(np.exp(np.linspace(-2, 2, 50))), "positive", False),
        (list(np.linspace(0.1, 2, 50)), "real", False),
        (["a", "b", "c"] * 4, "categorical", False),
        (["a", "b", "c"] * 3, "aside", False),
        ([f"w{n}" for n in range(51)] * 9, "aside", False),
        ([True, None, False, True] * 3, "binary", False),
        ([None] * 5, "aside", False),
    ],
)
def test_what_a_column_is_taken_for(values, kind, whole):
    for dtype in (None, object):
        found = guess(pd.Series(values, dtype=dtype))
        assert (found.kind, found.whole) == (kind, whole)


def test_kinds_can_be_said():
    said = {
        "steps": "categorical",
        "colour": ["blue", "green", "red"],
        "visits": "real",
        "income": "real",
        "yes": "aside",
        "name": "categorical",
    }
    schema = Schema.of(frame(), said)
    assert kinds(schema) | {
        "steps": "categorical:5",
        "colour": "ordinal:3",
        "visits": "real",
        "income": "real",
    } == kinds(schema)
    assert kinds(schema)["name"].startswith("categorical:") and schema.aside == ("yes", "day", "always")


def test_codes_say_what_the_cells_say():
    holes = frame()
    x = Schema.of(holes).encode(holes)
    by_hand = {
        "colour": holes["colour"].map({"blue": 0, "green": 1, "red": 2}),
        "yes": holes["yes"].map({False: 0, True: 1}),
        "size": holes["size"].astype(object).map({"small": 0, "medium": 1, "large": 2}),
        "visits": holes["visits"],
        "smokes": holes["smokes"],
        "income": holes["income"],
        "height": holes["height"],
        "born": holes["born"],
        "steps": holes["steps"] - 1,
        "sex": holes["sex"].astype(object).map({"f": 0, "m": 1}),
        "plain": holes["plain"].astype(int),
    }
    expected = np.stack([column.astype("Float64").to_numpy(float, na_value=np.nan) for column in by_hand.values()], 1)
    np.testing.assert_array_equal(x, expected)


def test_what_was_observed_comes_back_as_it_was_with_index_columns_and_types():
    for holes in (frame(), frame(holes=False)):
        schema = Schema.of(holes)
        pd.testing.assert_frame_equal(schema.decode(schema.encode(holes), holes), holes)
        alone = schema.decode(schema.encode(holes))
        modelled = holes[[column.name for column in schema.columns]].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, modelled, check_dtype=holes.notna().all(axis=None))


def test_holes_are_filled_with_words_whole_numbers_and_truth_values_of_the_columns_own_types():
    holes, full = frame(), frame(holes=False)
    schema = Schema.of(holes)
    pair = ppvae.make("mixed_vae", latents=2, hidden=(16,), **schema.options)
    x = schema.encode(holes)
    ppvae.fit(pair, x, epochs=30, batch_size=40, progress=False)
    post = ppvae.condition(pair, x)
    for filled in (schema.decode(post.impute_mean(), holes), *(schema.decode(x, holes) for x in post.impute(3))):
        assert filled[[c.name for c in schema.columns]].notna().all(axis=None)
        assert list(filled.columns) == list(holes.columns) and filled.index.equals(holes.index)
        assert (filled.dtypes == holes.dtypes).all()
        seen = holes.notna()
        pd.testing.assert_frame_equal(filled.where(seen), holes.where(seen))
        assert set(filled["colour"]) == set(full["colour"]) and set(filled["smokes"]) == {0.0, 1.0}
        assert (filled["born"].astype(float) % 1 == 0).all() and (filled["income"] > 0).all()
        assert filled["name"].equals(holes["name"]) and filled["day"].equals(holes["day"])


def test_an_integer_column_with_holes_stays_whole_where_it_can():
    schema = Schema.of(frame(holes=False))
    x = schema.encode(frame(holes=False))[:5]
    x[2] = np.nan
    found = schema.decode(torch.as_tensor(x))
    assert found["visits"].dtype == "Int64" and found["plain"].dtype == "boolean" and found.iloc[2].isna().all()
    assert found["visits"].drop(2).tolist() == frame(holes=False)["visits"].iloc[[0, 1, 3, 4]].tolist()


def test_columns_may_come_in_another_order_and_among_others():
    holes = frame()
    schema = Schema.of(holes)
    other = holes[list(holes.columns[::-1])].assign(new=1)
    np.testing.assert_array_equal(schema.encode(other), schema.encode(holes))


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("colour", "reed", r"column 'colour' holds what is none of the 3 classes of its column: 'reed' \(row 'r7'\)"),
        ("steps", 9, r"column 'steps' holds what is none of the 5 classes of its column: 9 \(row 'r7'\)"),
        ("income", 0.0, r"column 'income' holds what is not positive: 0.0 \(row 'r7'\)"),
        ("income", -3.0, "is not positive"),
        ("visits", -1, r"column 'visits' holds what is no count: -1 \(row 'r7'\)"),
        ("visits", 1.5, r"is no count: .*1.5 \(row 'r7'\)"),
        ("height", np.inf, "'height' holds what is infinite"),
        ("height", "tall", r"'height' holds what is no number: 'tall' \(row 'r7'\)"),
    ],
)
def test_a_cell_that_does_not_fit_is_named_with_column_row_and_value(column, value, says):
    schema = Schema.of(frame())
    other = frame(holes=False).astype({column: object})
    other.loc["r7", column] = value
    with pytest.raises(Problem, match=says) as caught:
        schema.encode(other)
    assert caught.value.cause and caught.value.remedy


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"heigth": "real"}, "kinds names the column 'heigth'"),
        ({"height": "reel"}, "asked to be 'reel'"),
        ({"colour": "ordinal"}, "'colour' holds words, such as 'blue', and is asked to be ordinal"),
        ({"colour": "binary"}, "'colour' has 3 different values and is asked to be binary"),
        ({"always": "categorical"}, "'always' has 1 different values"),
        ({"colour": ["blue", "red"]}, "'colour' holds what is none of the 2 classes"),
        ({"colour": "real"}, "'colour' holds what is no number"),
        ({"height": "count"}, "'height' holds what is no count"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(said, says):
    with pytest.raises(Problem, match=says):
        Schema.of(frame(), said)


def test_another_table_and_averages_of_codes_are_refused():
    holes = frame()
    schema = Schema.of(holes)
    with pytest.raises(Problem, match="no column 'colour'"):
        schema.encode(holes.drop(columns="colour"))
    x = np.nan_to_num(schema.encode(holes))
    x[3, 0] = 1.5
    with pytest.raises(Problem, match="1.5 in row 3 is no code of the 3 classes of column 'colour'"):
        schema.decode(x, holes)
    with pytest.raises(Problem, match="several draws at once"):
        schema.decode(np.stack([x, x]), holes)
    with pytest.raises(Problem, match="80 rows"):
        schema.decode(x[:5], holes)
    with pytest.raises(Problem, match="can be modelled"):
        Schema.of(holes[["name", "day"]])
