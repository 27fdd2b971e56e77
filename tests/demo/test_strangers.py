"""The real server, asked by hand-made requests."""

import http.client
import io
import json
import re
import secrets
import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError
from ldis_jax.demo.uploads import Limits

gradio = pytest.importorskip("gradio")


class Browser:
    """Cookies and a session's name, and nothing else of a browser."""

    def __init__(self, url):
        self.address, self.cookie, self.name = urlsplit(url), "", secrets.token_hex(5)
        self.config = json.loads(self.ask("GET", "/config")[1])

    def ask(self, method, path, body=None, **headers):
        """(status, content)."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=120)
        given = {"Cookie": self.cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        if cookie := answer.headers["set-cookie"]:
            self.cookie = cookie.partition(";")[0]
        content = answer.read()
        connection.close()
        return answer.status, content

    def upload(self, *files):
        """(status, paths or a line)."""
        parts = [
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
            % (name.encode(), content)
            for name, content in files
        ]
        status, text = self.ask(
            "POST", "/gradio_api/upload", b"".join(parts) + b"--x--\r\n", content_type="multipart/form-data; boundary=x"
        )
        return status, json.loads(text) if status == 200 else text.decode()

    def segment(self, **given):
        """(status, what the function gives or the line of its error) of the "Segment" button."""
        components = {each["id"]: each for each in self.config["components"]}
        ids = {each["props"].get("elem_id"): number for number, each in components.items()}
        [run] = [
            each for each in self.config["dependencies"] if [ids["segment"], "click"] in map(list, each["targets"])
        ]
        values = []
        for number in run["inputs"]:
            props = components[number]["props"]
            name = props.get("elem_id") or props.get("label")
            values.append(given[name] if name in given else None if name == "mask-file" else props.get("value"))
        body = {"data": values, "fn_index": run["id"], "session_hash": self.name, "trigger_id": ids["segment"]}
        status, text = self.ask("POST", "/gradio_api/queue/join", json.dumps(body), content_type="application/json")
        if status != 200:
            return status, json.loads(text)["detail"]
        _, events = self.ask("GET", f"/gradio_api/queue/data?session_hash={self.name}")
        told = [json.loads(each) for each in re.findall(rb"data: (.*)", events)]
        [last] = [each for each in told if each["msg"] == "process_completed"]
        return 200, last["output"]["data"] if last["success"] else last["output"]["error"]


def png(*shape):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def as_file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def editor(background, *layers):
    return {"background": as_file(background), "layers": [as_file(layer) for layer in layers], "composite": None}


def test_server_segments_what_a_browser_uploads(server):
    mine = Browser(server)
    _, [query] = mine.upload(("query.png", png(24, 50, 3)))
    _, [prompt] = mine.upload(("prompt.png", png(40, 30, 3)))
    _, [mask] = mine.upload(("mask.png", _mask()))
    status, given = mine.segment(
        query=as_file(query), prompt=editor(prompt), **{"mask-file": as_file(mask), "Steps": 1}
    )
    assert status == 200 and "object" in given[0]
    assert mine.ask("GET", f"/gradio_api/file={query}")[0] == 200
    assert mine.ask("GET", f"/gradio_api/file={given[1]['path']}")[0] == 200


def _mask():
    file, mask = io.BytesIO(), np.zeros((40, 30), np.uint8)
    mask[10:30] = 255
    Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


def test_server_rejects_files_that_the_browser_has_not_uploaded(server, pictures):
    mine, theirs = Browser(server), Browser(server)
    _, [query] = theirs.upload(("query.png", png(24, 50, 3)))
    for path in ("/etc/hostname", str(pictures["query"]), query):
        for given in ({"query": as_file(path)}, {"query": {"path": path}}, {"prompt": editor(path)}):
            status, line = mine.segment(**given)
            assert status == 400 and line.startswith("The request names a file that this browser has not uploaded")
        assert mine.ask("GET", f"/gradio_api/file={path}")[0] == 403


def test_server_answers_damaged_files_in_one_line(server):
    mine = Browser(server)
    _, [query] = mine.upload(("query.png", png(24, 50, 3)))
    _, [damaged] = mine.upload(("layer_0.png", png(24, 50, 4)[:200]))
    for given in ({"query": as_file(damaged)}, {"prompt": editor(damaged)}, {"prompt": editor(query, damaged)}):
        status, line = mine.segment(**{"query": as_file(query), **given})
        assert status == 200 and re.search("damaged|cannot be read|truncated", line) and "\n" not in line
    assert mine.segment(**{"query": as_file(query), "class": None})[0] == 400


def test_server_rejects_large_requests_and_goes_on(server):
    mine = Browser(server)
    assert mine.segment(**{"class": "x" * 20_000_000})[0] == 413
    assert mine.upload(*[(f"{i}.png", png(200, 300, 3)) for i in range(6)])[0] == 413  # each is below the limit
    assert mine.ask("GET", "/")[0] == 200


def test_server_rejects_foreign_pages(server):
    mine = Browser(server)
    assert mine.ask("GET", "/config", Host="evil.example")[0] == 421
    assert mine.ask("POST", "/gradio_api/upload", b"", Origin="http://evil.example")[0] == 403


def test_server_ends_a_connection_on_which_nothing_is_asked(server):
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port)) as silent:
        silent.settimeout(20)
        silent.sendall(b"GET / HTTP/1.1\r\nHost: ")
        start = time.monotonic()
        assert silent.recv(1) == b"" and 5 < time.monotonic() - start < 15


def test_server_in_time_bounds_runs_in_time_and_disk(tmp_path):
    from ldis_jax.demo.widgets import Server

    server = Server(None, Limits(minutes=1e-9), tmp_path)
    results = server.in_time(iter(range(3)))
    time.sleep(0.01)
    with pytest.raises(LDISError, match="Stopped after 1e-09 minutes"):
        list(results)
    (tmp_path / "large").write_bytes(b"x" * 2000)
    with pytest.raises(LDISError, match="the server's disk is full"):
        list(Server(None, Limits(total_mb=0.001), tmp_path).in_time(range(3)))
    assert list(Server(None, Limits(), tmp_path).in_time(range(3))) == [0, 1, 2]
