import pytest

from glacier.classes import COMPETITION, IGNORE, ClassMap, attribute_key, recognise
from glacier.errors import UsageError


def test_values_become_indices_in_the_order_given():
    found = ClassMap.parse("3=ice,-1=ignore,0=rock,7=ice")
    assert [c.name for c in found.classes] == ["ice", "rock"]
    assert found.index_of == {3: 0, -1: IGNORE, 0: 1, 7: 0}
    assert [c.value for c in found.classes] == [3, 0]


@pytest.mark.parametrize(
    "text",
    ["ice", "0=ice,0=rock", "0=ice", "0=ice,1=", "0=a,1=ignore", "=a,0=b", "Ice=a, ice =b"],
)
def test_what_is_no_class_map_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="--classes") as caught:
        ClassMap.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{0, 85, 255}, {170}, {0, 85, 170, 255}])
def test_the_competitions_values_speak_for_themselves(values):
    assert recognise(values) is COMPETITION


@pytest.mark.parametrize("values", [{0, 255}, {0, 1}])
def test_others_do_not(values):
    with pytest.raises(UsageError, match="--classes") as caught:
        recognise(values)
    assert all(str(v) in str(caught.value) for v in values)


def test_words_are_values_too():
    """Each gets the lowest positive value that no number claims; case and blanks do not matter."""
    found = ClassMap.parse("0=background, Clean Ice=glacier,1=lake,DEBRIS=debris,007=lake,snow=ignore")
    assert [(c.name, c.value) for c in found.classes] == [
        ("background", 0), ("glacier", 2), ("lake", 1), ("debris", 3),
    ]  # fmt: skip
    assert found.value_of == {"0": 0, "clean ice": 2, "1": 1, "debris": 3, "7": 7, "snow": 4}
    assert found.index_of == {0: 0, 2: 1, 1: 2, 3: 3, 7: 2, 4: IGNORE}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (None, "none"), (float("nan"), "none"), (3, "3"), (-3.0, "-3"), (0.5, "0.5"), (True, "1"),
        ("007", "7"), (" Clean Ice ", "clean ice"), ("²", "²"), (float("inf"), "inf"), (" ", "none"),
    ],
)  # fmt: skip
def test_attributes_of_any_kind_have_a_key(value, key):
    assert attribute_key(value) == key
