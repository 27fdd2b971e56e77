"""What a stranger may send to the web page, without the web page."""

import asyncio
import base64
import json
import time
import types

import pytest

pytest.importorskip("pydantic")

from ldis_jax.demo import guard as guard_module
from ldis_jax.demo.guard import Guard, Names
from ldis_jax.demo.requests import Requests
from ldis_jax.demo.sessions import Sessions
from ldis_jax.demo.uploads import Limits

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


def component(kind, **attributes):
    return types.SimpleNamespace(get_block_name=lambda: kind, **attributes)


FUNCTIONS = {
    3: [
        component("image", elem_id="query"),
        component("imageeditor", elem_id="prompt"),
        component("textbox", label="Class name", max_length=60),
        component("slider", label="Steps", minimum=1, maximum=50),
        component("radio", label="Sampler", choices=[("DDIM", "ddim"), ("DDPM", "ddpm")]),
        component("state"),
    ]
}
GOOD = [None, {"background": None, "layers": [], "composite": None}, "object", 20, "ddim", None]


@pytest.fixture
def page(tmp_path):
    """A page that answers an upload with the path in its body, and notes what came in."""
    return Page(tmp_path)


class Page:
    def __init__(self, folder, names=None, login="", limits=None):
        self.folder, self.seen, self.clock = folder, [], 0.0
        (folder / "example.png").touch()
        self.sessions = Sessions(folder, limits or Limits(), lambda: self.clock)
        names = names or Names("127.0.0.1", is_local=True)
        self.guard = Guard(self.app, Requests(FUNCTIONS), self.sessions, 1000, names, login)
        self.cookie = ""

    async def app(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.seen.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body or b"ok"})

    def __call__(self, method, path, body=b"", cookie=None, pieces=None, **headers):
        """(status, headers, text); a cookie is kept as a browser does, unless another is given."""
        path, _, query = path.partition("?")
        given = {"host": "127.0.0.1:7860", "cookie": self.cookie if cookie is None else cookie}
        given |= {"content-length": str(len(body))} if pieces is None else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        coming = list(pieces if pieces is not None else [body])
        answer = []

        async def receive():
            if not coming:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming) or pieces == [b"slow"]}

        async def send(message):
            answer.append(message)

        pairs = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": pairs}
        asyncio.run(self.guard(scope, receive, send))
        found = {name.decode(): value.decode() for name, value in answer[0]["headers"]}
        if cookie is None and "set-cookie" in found:
            self.cookie = found["set-cookie"].partition(";")[0]
        return answer[0]["status"], found, b"".join(each.get("body", b"") for each in answer).decode(errors="replace")

    def join(self, data, name="abc", **more):
        return self("POST", JOIN, json.dumps({"data": data, "fn_index": 3, "session_hash": name}).encode(), **more)


def file(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(("label", "good"), [(None, True), (7, True), (0, False), (1 << 16, False), ("7", False)])
def test_requests_take_a_label_as_a_number_whose_choices_are_not_known_yet(label, good):
    requests = Requests({3: [component("radio", elem_id="label", choices=[])]})
    error = requests.error(json.dumps({"data": [label], "fn_index": 3, "session_hash": "abc"}).encode(), lambda _: True)
    assert good == (error == "") and (good or error.startswith("Label: Input should be"))


def test_guard_lets_own_requests_in_with_a_session(page):
    status, headers, text = page("GET", "/")
    assert (status, text) == (200, "ok") and headers["x-content-type-options"] == "nosniff"
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Lax" in headers["set-cookie"]
    assert "set-cookie" not in page("GET", "/")[1]
    assert page.join(GOOD, origin="http://127.0.0.1:7860")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:7860"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "192.168.1.5"}, 421),
        ({"host": "[::"}, 421),
        ({"host": ""}, 421),
        ({"host": None}, 421),
        ({"host": "localhost:7860"}, 200),
        ({"host": "[::1]:7860"}, 200),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, 200),  # a tunnel
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
    ],
)
def test_guard_serves_only_its_own_hosts_and_origins(page, headers, status):
    found, answered, text = page.join(GOOD, **headers)
    assert found == status and answered["x-content-type-options"] == "nosniff"
    assert len(page.seen) == (status == 200) and text.count("\n") == 0
    assert "access-control-allow-origin" not in answered


def test_guard_serves_numbers_and_given_names_to_a_network(tmp_path):
    page = Page(tmp_path, Names("0.0.0.0", is_local=False, more=["Demo.example.org"]))
    hosts = ("192.168.1.5:7860", "[fe80::1]", "demo.example.org", "evil.example", "demo.example.org.evil.example")
    assert [page("GET", "/", host=host)[0] for host in hosts] == [200, 200, 200, 421, 421]


def test_guard_asks_for_a_login_everywhere(tmp_path, monkeypatch):
    page, waited = Page(tmp_path, login="me:pässword"), []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(guard_module.asyncio, "sleep", sleep)
    right, wrong = (base64.b64encode(text.encode()).decode() for text in ("me:pässword", "me:other"))
    assert page("GET", "/assets/index.js")[0] == page.join(GOOD)[0] == 401
    status, headers, _ = page("GET", "/", authorization=f"Basic {wrong}")
    assert status == 401 and headers["www-authenticate"].startswith("Basic") and waited == [1, 1, 1]
    assert page("GET", "/", authorization=f"Basic {right}")[0] == 200


def test_guard_bounds_bodies_before_they_are_parsed(page):
    most = guard_module.BODY_BYTES
    for more in ({"body": b"x" * (most + 1)}, {"pieces": [b"x" * 40_000] * 2}, {"content_length": "9" * 19}):
        status, _, text = page("POST", JOIN, **more)
        assert status == 413 and json.loads(text)["detail"].startswith(f"The request is larger than {most} bytes")
    assert page("GET", "/", body=b"x" * (most + 1))[0] == 413
    assert page("POST", UPLOAD, body=b"x" * 20_000)[0] == 413
    assert page("POST", UPLOAD, pieces=[b"x"])[0] == 411
    assert not page.seen


def test_guard_rejects_a_body_that_does_not_arrive_in_time(page, monkeypatch):
    monkeypatch.setattr(guard_module, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(guard_module, "_DRAIN_SECONDS", 0.05)
    status, _, text = page("POST", JOIN, pieces=[b"slow"])
    assert status == 408 and "did not arrive within 0.05 seconds" in text and not page.seen


@pytest.mark.parametrize("path", ["/gradio_api/component_server", "/gradio_api/run/predict", "/login", "/nothing"])
def test_guard_rejects_what_the_page_does_not_send(page, path):
    assert page("POST", path, b"{}")[0] == 404
    assert page("PUT", UPLOAD, b"{}")[0] == page("GET", "/gradio_api/deep_link?session_hash=a")[0] == 404


def test_guard_lets_only_files_of_this_browser_be_read(page):
    mine, theirs = page.folder / "a" / "mine.png", page.folder / "b" / "theirs.png"
    assert page("POST", UPLOAD, json.dumps([str(mine)]).encode())[0] == 200
    me, page.cookie = page.cookie, ""
    assert page("POST", UPLOAD, json.dumps([str(theirs)]).encode())[0] == 200
    page.cookie = me
    query = "query.png"
    for path, status in (
        (mine, 200), (page.folder / "example.png", 200), (theirs, 400), ("/etc/hostname", 400), (query, 400),
        (page.folder / "a" / ".." / "a" / "mine.png", 400), ("http://evil.example/a.png", 400), ("", 400),
    ):  # fmt: skip
        for data in (
            [file(path), *GOOD[1:]],
            [None, {"background": file(path)}, *GOOD[2:]],
            [None, {"layers": [file(path)]}, *GOOD[2:]],
            [None, {"composite": {"path": str(path)}}, *GOOD[2:]],
        ):
            found, _, text = page.join(data)
            assert found == status, (path, data)
            assert status == 200 or "a file that this browser has not uploaded" in json.loads(text)["detail"]
        if str(path).startswith("/"):
            assert page("GET", f"/gradio_api/file={path}")[0] == (200 if status == 200 else 403)
    assert page("GET", f"/gradio_api/file={mine}", cookie="")[0] == 403


def test_sessions_tell_lets_files_be_given_back(page):
    assert page("GET", "/")[0] == 200
    path = page.folder / "c" / "frame.png"
    event = {"msg": "process_generating", "output": {"data": [[["replace", ["background", "path"], str(path)]]]}}
    page.sessions.tell(page.cookie.partition("=")[2], f"data: {json.dumps(event)}\n\n".encode())
    assert page.join([None, {"background": file(path)}, *GOOD[2:]])[0] == 200


def test_guard_keeps_the_name_of_a_page_to_its_browser(page):
    assert page.join(GOOD)[0] == 200
    me, page.cookie = page.cookie, ""
    for path in ("/gradio_api/queue/data?session_hash=abc", "/gradio_api/heartbeat/abc"):
        assert page("GET", path)[0] == 403 and page("GET", path, cookie=me)[0] == 200
    body = json.dumps({"session_hash": "abc", "fn_index": 3, "event_id": "a"}).encode()
    assert page("POST", "/gradio_api/cancel", body)[0] == 403
    assert page.join(GOOD, name="x" * 65)[0] == page("GET", f"/gradio_api/heartbeat/{'x' * 65}")[0] == 403


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([*GOOD[:2], None, *GOOD[3:]], "Class name: Input should be a valid string"),
        ([*GOOD[:2], "x" * 61, *GOOD[3:]], "Class name: String should have at most 60 characters"),
        ([*GOOD[:3], None, *GOOD[4:]], "Steps: Input should be a valid number"),
        ([*GOOD[:3], 51, *GOOD[4:]], "Steps: Input should be less than or equal to 50"),
        ([*GOOD[:3], True, *GOOD[4:]], "Steps: Input should be a valid number"),
        ([*GOOD[:4], "euler", None], "Sampler: Input should be 'ddim' or 'ddpm'"),
        (["query.png", *GOOD[1:]], "Query: Input should be a valid dictionary"),
        ([{"path": None}, *GOOD[1:]], "Query (path): Input should be a valid string"),
        ([{"url": "http://evil.example"}, *GOOD[1:]], "Query (path): Field required"),
        ([None, [], *GOOD[2:]], "Prompt: Input should be a valid dictionary"),
        ([None, {"layers": None}, *GOOD[2:]], "Prompt (layers): Input should be a valid list"),
        ([None, {"layers": [None]}, *GOOD[2:]], "Prompt (layers.0): Input should be a valid dictionary"),
        ([None, {"layers": [file("a")] * 9}, *GOOD[2:]], "Prompt (layers): List should have at most 8 items"),
        ([None, {"id": "blob"}, *GOOD[2:]], "Prompt (id): Input should be None"),
        ([*GOOD[:5], [1]], "State: Input should be None"),
        (GOOD[:5], "The request asks for what this page does not do"),
        (None, "Request (data): Input should be a valid list"),
    ],
)
def test_requests_have_only_fields_that_the_page_sends(page, data, line):
    status, _, text = page.join(data)
    assert status == 400 and json.loads(text)["detail"].startswith(line) and not page.seen


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 60_000, b"[]", b"1" * 5000, b'{"session_hash": null}'])
def test_guard_rejects_what_is_no_request_in_one_line(page, body):
    status, _, text = page("POST", JOIN, body)
    assert status == 403 and json.loads(text)["detail"].count("\n") == 0 and not page.seen


def test_requests_reject_many_files(page):
    page.cookie = ""
    body = {"data": GOOD, "fn_index": 3, "session_hash": "a", "event_data": [file(page.folder / "example.png")] * 17}
    status, _, text = page("POST", JOIN, json.dumps(body).encode())
    assert status == 400 and "17 files; 16 are the most" in text


def test_sessions_bound_uploads_in_sum_and_forget_them_after_their_time(tmp_path):
    page = Page(tmp_path, limits=Limits(session_mb=0.2, total_mb=0.4))  # each counts for at least 64 KiB
    assert [page("POST", UPLOAD, b"[]")[0] for _ in range(4)] == [200, 200, 200, 429]
    page.cookie = ""
    assert [page("POST", UPLOAD, b"[]")[0] for _ in range(4)] == [200, 200, 200, 429]
    page.cookie = ""
    status, _, text = page("POST", UPLOAD, b"[]")
    assert status == 429 and "of all browsers together are more than 0.4 MB" in text
    page.clock = 4201
    assert page("POST", UPLOAD, b"[]")[0] == 200


def test_sessions_count_the_same_upload_once(tmp_path):
    page = Page(tmp_path, limits=Limits(session_mb=0.1))
    body = json.dumps([str(tmp_path / "a.png")]).encode()
    assert [page("POST", UPLOAD, body)[0] for _ in range(5)] == [200] + [429] * 4
    page = Page(tmp_path, limits=Limits(session_mb=0.13))  # room for one more, that is looked at first
    assert [page("POST", UPLOAD, body)[0] for _ in range(5)] == [200] * 5


def test_sessions_do_not_count_uploads_that_do_not_come(tmp_path, monkeypatch):
    page = Page(tmp_path, limits=Limits(session_mb=0.1))
    monkeypatch.setattr(guard_module, "UPLOAD_SECONDS", 0.02)
    monkeypatch.setattr(guard_module, "_DRAIN_SECONDS", 0.02)
    for _ in range(3):
        assert page("POST", UPLOAD, pieces=[b"slow"], content_length="900")[0] == 408
    assert page("POST", UPLOAD, b"[]")[0] == 200


def test_sessions_sweep_removes_old_files(page, monkeypatch):
    (page.folder / "tmp1").mkdir()
    (page.folder / "tmp1" / "mask.png").touch()
    page.sessions.sweep()
    assert (page.folder / "tmp1" / "mask.png").exists()
    now = time.time() + 3700
    monkeypatch.setattr("ldis_jax.demo.sessions.time.time", lambda: now)
    page.sessions.sweep()
    page.sessions.sweep()
    assert [path.name for path in page.folder.iterdir()] == ["example.png"]
