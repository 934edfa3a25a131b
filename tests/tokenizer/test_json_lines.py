"""Records and logs survive a cut last line; a damaged line in the middle is named."""

import json

import pytest

from focallm.tokenizer.json_lines import append_json_line, read_json_lines

ROWS = [{"step": i, "text": "word\u2028 wörd\x85 " * i} for i in range(3)]


def _values(path):
    return [value for _, value in read_json_lines(path, appended=True)]


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    for row in ROWS:
        append_json_line(path, row)
    assert read_json_lines(path) == list(enumerate(ROWS, 1))


def test_a_last_line_cut_anywhere_is_lost_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for size in range(second_end, len(whole)):
        path.write_bytes(whole[:size])
        is_complete = size == len(whole) - 1  # only the line feed is missing
        assert _values(path) == ROWS[: 3 if is_complete else 2]
        append_json_line(path, "next")
        assert _values(path) == [*ROWS[: 3 if is_complete else 2], "next"]
    path.write_bytes(whole + b"\x00\x00")  # as some file systems leave it
    append_json_line(path, "next")
    assert _values(path) == [*ROWS, "next"]


@pytest.mark.parametrize("bad", [b'{"step": ', b"[" * 100_000, b'{"a": 1}{"a": 2}'])
def test_a_bad_line_in_the_middle_is_named(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + bad + b'\n{"a": 2}\n')
    for appended in (False, True):
        with pytest.raises(ValueError, match=r"a\.jsonl, line 3 is not JSON .*delete this line"):
            read_json_lines(path, appended)
    path.write_bytes(b'{"a": 1}\n"\xff"\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is not UTF-8 text .*iconv"):
        read_json_lines(path, appended=True)


def test_a_cut_end_of_a_file_that_a_user_wrote_is_named(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}')
    assert read_json_lines(path) == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_bytes(b'{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match=r"manifest\.jsonl, line 2 is not JSON"):
        read_json_lines(path)
