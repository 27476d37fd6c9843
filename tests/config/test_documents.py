"""YAML files as plain data with places, overrides, and the way back to YAML."""

import copy

import pytest

from gcsearch.config import Document, parse_assignment, read_document
from gcsearch.config.documents import describe, dump_yaml
from gcsearch.errors import ConfigError


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "file.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e5", 5e5),
        ("512_000", 512_000),
        ("-3", -3),
        ("0x10", 16),
        (".5", 0.5),
        ("true", True),
        ("on", "on"),
        ("no", "no"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("a word", "a word"),
        ("[1, [2.5, x]]", [1, [2.5, "x"]]),
        ("{a: {b: [1]}}", {"a": {"b": [1]}}),
        ("\n  - 1\n  - {b: 2}", [1, {"b": 2}]),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_values_are_read_as_yaml_1_2_and_are_plain(written, text, value):
    data = read_document(written(f"key: {text}\n")).data
    assert data == {"key": value}
    assert type(data) is dict
    assert type(data["key"]) is type(value)


def test_every_key_and_item_knows_its_line(written):
    path = written("a: 1\n\n# a comment\nb:\n  c: 2\n  d:\n    - 3\n    - {e: 4,\n       f: 5}\n")
    document = read_document(path)
    lines = {
        ("a",): 1,
        ("b",): 4,
        ("b", "c"): 5,
        ("b", "d"): 6,
        ("b", "d", 0): 7,
        ("b", "d", 1): 8,
        ("b", "d", 1, "e"): 8,
        ("b", "d", 1, "f"): 9,
    }
    assert document.places == {key: f"{path}:{line}" for key, line in lines.items()}
    assert document.where(("b", "d", 1, "missing", "deeper")) == f"{path}:8"
    assert document.where(("missing",)) == document.where(()) == str(path)


def test_anchors_and_merges_give_independent_copies(written):
    path = written("base: &base {mu: 0.5, start: [1, 2]}\nfirst: {<<: *base, mu: 0.7}\nsecond: *base\n")
    document = read_document(path)
    assert document.data["first"] == {"mu": 0.7, "start": [1, 2]}
    assert document.data["second"] == document.data["base"] == {"mu": 0.5, "start": [1, 2]}
    assert document.where(("first", "start")) == f"{path}:2"
    changed = document.with_values({"second.mu": 0.1})
    assert changed.data["base"] == {"mu": 0.5, "start": [1, 2]}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(written):
    path = written(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    document = read_document(path)
    assert document.data == {"a": 1, "b": "x"}
    assert document.where(("b",)) == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\na: 2\n", 2, "a key is written twice"),
        ("b:\n  a: 1\n  c: 3\n  a: 2\n", 4, 'a key is written twice: found duplicate key "a"'),
        ('a: "x\\ny"\na: "x\\ny"\n', 2, "a key is written twice"),
        ("a: [1, 2\nb: 3\n", 2, "is not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "is not valid YAML"),
        ("a: 1\nb: *missing\n", 2, "is not valid YAML: found undefined alias 'missing'"),
        ("a: 'open\nb: 2\n", 3, "is not valid YAML"),
        ("a: b: c\n", 1, "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "is not valid YAML"),
        ("a: 1\n1: 2\n", 2, "a key must be a word, got 1."),
        ("a: {true: 2}\n", 1, "a key must be a word, got True."),
        ("a: 1\n? [x]\n: 2\n", None, "a key must be a word"),
        ("a: 1\nb: 2020-01-01\n", 2, "must be a number, word, list or mapping, got datetime.date(2020, 1, 1). Quote"),
        ("a: 1\nb: [2020-01-01]\n", 2, "must be a number, word, list or mapping"),
        ("a: 1\nb: !!binary aGVsbG8=\n", 2, "must be a number, word, list or mapping"),
        ("a: 1\nb: !!set {x}\n", 2, "must be a number, word, list or mapping"),
        ("a: 1\nb: !mine 3\n", 2, "must be a number, word, list or mapping"),
        ("a: !!bool x\n", None, "is not valid YAML"),
        ("a: !!int x\n", None, "is not valid YAML"),
        ("a: !!float x\n", None, "is not valid YAML"),
        ("a: 2020-99-99\n", None, "is not valid YAML"),
        ("a: x\x00y\n", None, "is not valid YAML"),
        ("a: " + "9" * 5000 + "\n", None, "is not valid YAML"),
        ("a: " + "[" * 500 + "]" * 500 + "\n", None, "is not valid YAML"),
        ("", None, "is empty. See experiments/digits.yaml"),
        ("# only a comment\n", None, "is empty"),
        ("---\n", None, "is empty"),
        ("- a\n- b\n", None, "must be a mapping of keys to values at the top level, got ['a', 'b']."),
        ("hello\n", None, "must be a mapping of keys to values at the top level, got 'hello'."),
        ("3\n", None, "must be a mapping of keys to values at the top level, got 3."),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_with_its_place(written, text, line, message):
    path = written(text)
    with pytest.raises(ConfigError) as error:
        read_document(path)
    place = f"{path}:{line}: " if line else str(path)
    assert str(error.value).startswith(place)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_object_is_made_from_a_tag(written, tmp_path):
    target = tmp_path / "owned"
    path = written(f"a: !!python/object/apply:os.mkdir [{target}]\n")
    try:
        data = read_document(path).data
    except ConfigError:
        data = None
    assert data in (None, {"a": [str(target)]})
    assert not target.exists()


def test_a_missing_file_a_folder_and_bytes_are_refused(tmp_path, written):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file\."):
        read_document(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"is a folder, a YAML file is needed\."):
        read_document(tmp_path)
    for content in (b"\x80\x81\xff", "a: 1\n".encode("utf-16")):
        with pytest.raises(ConfigError, match="cannot be read as text"):
            read_document(written(content))
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_document(written("a: 1") / "below_a_file")


# Overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=1", "a", 1),
        ("a.b.c=1e-4", "a.b.c", 1e-4),
        ("a= 512_000", "a", 512_000),
        (" a.b = x ", "a.b", "x"),
        ("a='1'", "a", "1"),
        ("a=true", "a", True),
        ("a=null", "a", None),
        ("a=", "a", None),
        ("a=[1, 2]", "a", [1, 2]),
        ("a={b: 1, c: x}", "a", {"b": 1, "c": "x"}),
        ("a=b=c", "a", "b=c"),
    ],
)
def test_an_assignment_is_a_dotted_key_and_a_yaml_value(text, key, value):
    parsed = parse_assignment(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["", "a", "=1", " =1", ".=1", "a.=1", ".a=1", "a..b=1", "a\nb"])
def test_an_assignment_without_key_or_equals_sign_is_refused(text):
    with pytest.raises(ConfigError, match="must have the form key=value, for example --set") as error:
        parse_assignment(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a=[1", "a={", "a=b: c: d", "a=2020-01-01", "a='", "a={b: 1, b: 2}", "a=!!bool x"])
def test_an_assignment_whose_value_is_no_yaml_is_refused_with_its_text(text):
    with pytest.raises(ConfigError) as error:
        parse_assignment(text)
    assert str(error.value).startswith(f"--set {text}")
    assert "\n" not in str(error.value)


def test_a_value_is_set_deep_inside_and_the_rest_stays():
    document = Document({"a": {"b": {"c": 1, "d": 2}}, "e": 3})
    before = copy.deepcopy(document.data)
    changed = document.with_values({"a.b.c": 9})
    assert changed.data == {"a": {"b": {"c": 9, "d": 2}}, "e": 3}
    assert document.data == before


def test_a_mapping_replaces_the_whole_section_and_its_places(written):
    path = written("a: {b: 1, c: 2}\nd: 4\n")
    document = read_document(path).with_assignments(["a={c: 5}"])
    assert document.data == {"a": {"c": 5}, "d": 4}
    assert document.where(("a", "c")) == document.where(("a",)) == "--set a={c: 5}"
    assert document.where(("d",)) == f"{path}:2"


def test_a_key_inside_a_bare_name_or_a_missing_section_makes_the_section():
    document = Document({"network": "mlp", "empty": None}).with_values({"network.width": 8, "new.x.y": 1, "empty.z": 2})
    assert document.data == {"network": {"name": "mlp", "width": 8}, "new": {"x": {"y": 1}}, "empty": {"z": 2}}


def test_later_assignments_win_and_see_earlier_ones():
    document = Document({"a": 1}).with_assignments(["a=2", "b={c: 1}", "b.c=3", "b.d=4", "a=5"])
    assert document.data == {"a": 5, "b": {"c": 3, "d": 4}}
    assert document.where(("b", "c")) == "--set b.c=3"
    assert document.where(("b",)) == "--set b={c: 1}"


def test_a_set_value_is_not_shared_with_the_caller():
    value = {"x": [1]}
    document = Document({}).with_values({"a": value})
    value["x"].append(2)
    assert document.data == {"a": {"x": [1]}}


@pytest.mark.parametrize("data", [{"a": 3}, {"a": [1]}, {"a": True}])
def test_nothing_can_be_set_inside_a_value(data):
    with pytest.raises(ConfigError, match=r"^--set a\.b=1: 'a' is not a section, so 'a\.b' cannot be set\.$"):
        Document(data).with_assignments(["a.b=1"])


def test_an_assignment_of_two_lines_makes_a_place_of_one():
    document = Document({}).with_assignments(["a=1\n 2"])
    assert document.where(("a",)) == "--set a=1 2"


# Writing ----------------------------------------------------------------------------------------------------------

DATA = {
    "name": "x",
    "flag": True,
    "nothing": None,
    "looks_like_a_number": "1e-4",
    "looks_like_null": "null",
    "yes": "yes",
    "date": "2020-01-01",
    "empty": "",
    "odd": "a: b # c",
    "lines": "one\ntwo\n",
    "unicode": "Größe μ",
    "long": "word " * 60 + "end",
    "numbers": [1, -2, 0.1, 1e-300, 5e5, 1e22, 0.1 + 0.2, 123456789.123456789],
    "nested": {"a": {"b": {"c": [1, [2, {"d": 3}]]}}, "e": {}},
    "empty_list": [],
}


def test_what_is_written_is_read_back_equal_with_the_same_types(written):
    again = read_document(written(dump_yaml(DATA))).data
    assert again == DATA
    assert list(again) == list(DATA)
    assert [type(value) for value in again["numbers"]] == [type(value) for value in DATA["numbers"]]


def test_the_same_object_twice_is_written_without_an_anchor(written):
    shared = {"a": [1]}
    text = dump_yaml({"first": shared, "second": shared})
    assert "&" not in text
    assert read_document(written(text)).data == {"first": shared, "second": shared}


def test_innermost_mappings_are_written_on_one_line():
    assert dump_yaml({"coupling": {"name": "generator", "mu": 0.5}, "seed": 0}) == (
        "coupling: {name: generator, mu: 0.5}\nseed: 0\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("x", "'x'"),
        ("a\nb", r"'a\nb'"),
        ({}, "an empty mapping"),
        ({"a": 1, "b": 2}, "the mapping {a, b}"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_a_value_is_described_shortly(value, text):
    assert describe(value) == text
    assert len(describe("x" * 1000)) == 80
