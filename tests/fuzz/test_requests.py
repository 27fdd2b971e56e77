"""What strangers may send to the web page: an answer of the guard in one line, or what the page takes."""

import json

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("pydantic")

from hypothesis import given
from hypothesis import strategies as st

from tests.demo.test_guard import GOOD, JOIN, UPLOAD, Page
from tests.fuzz.tally import VALUES, altered, cases, mutated

ANSWERS = {200, 400, 401, 403, 404, 408, 411, 413, 421, 429}
PATHS = ("/", JOIN, UPLOAD, "/gradio_api/cancel", "/gradio_api/file=", "/gradio_api/queue/data", "/gradio_api/info")
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(("host", "origin", "cookie", "content_length", "authorization", "referer", "x_forwarded_for")),
    st.one_of(LATIN, st.sampled_from(("127.0.0.1:7860", "http://127.0.0.1:7860", "null", "0", "-1", "9" * 30, "[::1"))),
    max_size=3,
)


def answered(tally, page, *request, **headers):
    """A request's case: let in, or refused in a line."""
    before = len(page.seen)
    with tally.case():
        status, found, text = page(*request, **headers)
        assert status in ANSWERS and found["x-content-type-options"] == "nosniff"
        assert (status == 200) == (len(page.seen) > before)
        if status != 200:
            tally.line(text)
    return status


@given(data=st.data())
@cases(150)
def test_guard_answers_any_request(tally, data):
    page = Page(tally.folder)
    path = data.draw(st.sampled_from(PATHS)) + data.draw(st.one_of(st.just(""), LATIN))
    query = data.draw(st.one_of(st.just(""), LATIN, st.just("session_hash=abc")))
    body = data.draw(st.one_of(st.binary(max_size=100), VALUES.map(lambda value: json.dumps(value).encode())))
    method = data.draw(st.sampled_from(("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "")))
    headers = data.draw(HEADERS)
    cookie = headers.pop("cookie", None)
    answered(tally, page, method, f"{path}?{query}", body, cookie=cookie and cookie.encode("latin-1").decode("latin-1"))
    answered(tally, page, method, path, body, **headers)


@given(data=st.data())
@cases(150)
def test_guard_answers_any_call_of_a_function(tally, data):
    page = Page(tally.folder)
    good = {"data": GOOD, "fn_index": 3, "session_hash": "abc"}
    document = json.dumps(data.draw(altered(good))).encode()
    body = data.draw(st.one_of(st.just(document), mutated([json.dumps(good).encode()])))
    answered(tally, page, "POST", JOIN, body)


def test_guard_lets_a_good_call_in(tally):
    assert (
        answered(
            tally,
            Page(tally.folder),
            "POST",
            JOIN,
            json.dumps({"data": GOOD, "fn_index": 3, "session_hash": "abc"}).encode(),
        )
        == 200
    )


@given(data=st.data())
@cases(100)
def test_guard_serves_no_files_of_others(tally, data):
    """No spelling of a path reads what was not given to this browser."""
    page = Page(tally.folder)
    parts = st.lists(st.sampled_from(("..", ".", "", "etc", "passwd", "%2e%2e", "example.png", "~", "a")), max_size=6)
    name = "/".join(data.draw(parts))
    path = data.draw(st.sampled_from((name, f"/{name}", f"{tally.folder}/../{name}", f"{tally.folder}/{name}/")))
    assert answered(tally, page, "GET", f"/gradio_api/file={path}") in (403, 404)
