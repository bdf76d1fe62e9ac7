import pytest

from glacier.classes import COMPETITION, IGNORE, ClassMap, recognise
from glacier.errors import UsageError


def test_values_become_indices_in_the_order_given():
    found = ClassMap.parse("3=ice,-1=ignore,0=rock,7=ice")
    assert [c.name for c in found.classes] == ["ice", "rock"]
    assert found.index_of == {3: 0, -1: IGNORE, 0: 1, 7: 0}
    assert [c.value for c in found.classes] == [3, 0]


@pytest.mark.parametrize(
    "text",
    ["ice", "x=ice,0=rock", "0=ice,0=rock", "0=ice", "0=ice,1=", "0=a,1=ignore", "--1=a,0=b", "²=a,0=b"],
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
