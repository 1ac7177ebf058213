"""YAML is read as kubectl reads it, and what is wrong is said with its place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_api.document import dump_document, parse_documents, parse_value, read_text
from asyncrl_api.errors import ManifestError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.sampled_from(
        ["off", "y", "5e-3", "010", "1_000", "1:30", "2026-01-01", "null", "<<", "="]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-3", 0.005),
        ("1e6", 1e6),
        ("1_000_000", 1_000_000),
        ("0x10", 16),
        ("010", 8),
        ("-7", -7),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.2.3", "1.2.3"),
        ("off", False),
        ("yes", True),
        ('"off"', "off"),
        ('"4"', "4"),
        ("None", "None"),
        ("~", None),
        ("", None),
        ("[64, 64]", [64, 64]),
    ],
)
def test_scalars_have_the_types_that_the_api_server_would_see(text: str, value: object) -> None:
    read = parse_value(text, "here")
    assert read == value
    assert type(read) is type(value)


@given(st.dictionaries(st.text("abcyn", min_size=1, max_size=3), JSON, max_size=4))
def test_what_is_dumped_is_read_back_equal(document: dict[str, object]) -> None:
    (read,) = parse_documents(dump_document(document)) or [{}]
    assert read == document


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "job.yaml:3:", "wrong YAML"),
        ("a: 1\n\tb: 2\n", "job.yaml:2:1", "indent with spaces"),
        ("a: b: c\n", "job.yaml:1:5", "mapping values are not allowed"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "job.yaml:4:3", "'c' is there twice, first in line 3"),
        ("off: 1\n", "job.yaml:1:1", "key off is bool, not text; put it in quotes"),
        ("a: !!python/object:os.system {}\n", "job.yaml:1:4", "could not determine a constructor"),
    ],
)
def test_wrong_yaml_is_named_with_file_line_and_column(text: str, place: str, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_documents(text, "job.yaml")
    message = str(caught.value)
    assert message.startswith(place)
    assert words in message
    assert "\n" not in message


def test_aliases_that_expand_without_bound_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ManifestError, match="write it without"):
        parse_documents("\n".join(lines), "job.yaml")
    with pytest.raises(ManifestError, match="write it without"):
        parse_documents("a: &a [*a]", "job.yaml")


def test_files_that_cannot_be_read_are_named_with_a_remedy(tmp_path: Path) -> None:
    binary, huge = tmp_path / "binary.yaml", tmp_path / "huge.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    huge.write_bytes(b"#" * 2_000_000)
    for path, words in (
        (tmp_path / "absent.yaml", "there is no such file"),
        (tmp_path, "is a folder"),
        (huge, "is larger than"),
    ):
        with pytest.raises(ManifestError, match=words) as caught:
            read_text(path)
        assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ManifestError, match=r"binary\.yaml:2: is not UTF-8"):
        read_text(binary)
