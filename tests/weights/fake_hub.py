"""A small Hugging Face hub on this machine: repositories in memory, answers as the real one gives them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

ID = "owner/model"


class FakeHub:
    """Repositories in memory, and every request for them."""

    def __init__(self):
        self.commits = {}  # (id, commit) -> {path: bytes}
        self.refs = {}  # (id, branch or tag) -> commit
        self.refusals = {}  # beginning of a request's path -> (status, headers)
        self.cuts = {}  # file -> how its next download ends early
        self.web = {}  # path of any other server -> its file
        self.log = []  # (method, path, Range header)
        hub = self

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that went away

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                hub.answer(self)

            def do_POST(self):
                hub.answer(self)

            def do_HEAD(self):
                hub.answer(self)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, files, repo=ID, ref="main"):
        """Commits {path: bytes}, or files by name alone, and returns the commit."""
        files = files if isinstance(files, dict) else {name: name.encode() for name in files}
        commit = hashlib.sha1(f"{repo} {len(self.commits)}".encode()).hexdigest()
        self.commits[repo, commit], self.refs[repo, ref] = files, commit
        return commit

    def fetched(self):
        """Files whose content was asked for."""
        return {
            path.split("/resolve/")[1].split("/", 1)[1] for method, path, _ in self.log if is_download(method, path)
        }

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        api = path.startswith("/api/")
        if not api and "/resolve/" not in path and path not in self.web:
            return send(request, 404)  # the library asks for more than repositories
        self.log.append((request.command, path, request.headers.get("Range")))
        for start, (status, headers) in self.refusals.items():
            if path.startswith(start):
                return send(request, status, headers)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            asked = json.loads(body)
            made = f"{asked['organization']}/{asked['name']}"
            self.add({}, made)
            return send_json(request, {"url": f"{self.url}/{made}"})
        if path == "/api/validate-yaml":  # of a card
            return send_json(request, {"errors": [], "warnings": []})
        if path in self.web:
            return self.send_content(request, path, self.web[path], {})
        parts = path.removeprefix("/api/models").split("/")[1:]
        repo, what, revision = "/".join(parts[:2]), "".join(parts[2:3]), "".join(parts[3:4]) or "main"
        if not any(repo == known for known, _ in self.commits):
            return send(request, 401, error("RepoNotFound", "Invalid username or password."))
        commit = self.refs.get((repo, revision), revision)
        if (repo, commit) not in self.commits:
            return send(request, 404, error("RevisionNotFound", f"Invalid rev id: {revision}"))
        files = self.commits[repo, commit]
        if what == "resolve":
            return self.send_file(request, commit, files, "/".join(parts[4:]))
        if what == "preupload":  # small files go with the commit itself
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]
            return send_json(request, {"files": modes})
        if what == "commit":
            lines = [json.loads(line)["value"] for line in body.splitlines() if b'"file"' in line]
            new = self.add(files | {file["path"]: base64.b64decode(file["content"]) for file in lines}, repo)
            return send_json(request, {"commitUrl": f"{self.url}/{repo}/commit/{new}", "commitOid": new})
        if what == "tree":
            folders = [
                {"type": "directory", "path": name, "oid": "0" * 40} for name in {n.split("/")[0] for n in files}
            ]
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": digest(files[name])} for name in files
            ]
            return send(request, 200, body=json.dumps(folders + entries).encode())
        if what == "paths-info":
            asked = json.loads(body)["paths"]
            found = [name for name in files if name in asked]
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": digest(files[name])} for name in found
            ]
            return send(request, 200, body=json.dumps(entries).encode())
        info = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "downloads": 0}
        siblings = [{"rfilename": name, "size": len(body), "lfs": lfs(body)} for name, body in files.items()]
        return send(request, 200, body=json.dumps({**info, "siblings": siblings}).encode())

    def send_file(self, request, commit, files, name):
        if name not in files:
            return send(request, 404, {**error("EntryNotFound", "Entry not found"), "X-Repo-Commit": commit})
        body = files[name]
        return self.send_content(request, name, body, {"X-Repo-Commit": commit})

    def send_content(self, request, name, body, headers):
        """A file, or the range of it that is asked for."""
        headers = {"ETag": f'"{digest(body)}"', "Accept-Ranges": "bytes", **headers}
        asked = request.headers.get("Range")
        if request.command == "GET" and (not asked or asked.endswith("-")) and name in self.cuts:
            return self.cuts.pop(name)(request, headers, body)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(last or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            return send(request, 206, headers, body[first : last + 1])
        return send(request, 200, headers, body)


def send(request, status, headers=None, body=b"", length=None):
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": len(body) if length is None else length}.items():
        request.send_header(name, str(value))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
        request.wfile.flush()


def send_json(request, value):
    send(request, 200, body=json.dumps(value).encode())


def error(code, message):
    return {"X-Error-Code": code, "X-Error-Message": message}


def digest(body):
    return hashlib.sha1(body).hexdigest()


def lfs(body):
    return {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 0}


def is_download(method, path):
    return method == "GET" and "/resolve/" in path
