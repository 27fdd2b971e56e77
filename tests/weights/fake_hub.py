"""A small Hugging Face hub on this machine: repositories in memory, answers as the real one gives them."""

from __future__ import annotations

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
        api = path.startswith("/api/models/")
        if not api and "/resolve/" not in path:
            return send(request, 404)  # the library asks for more than repositories
        self.log.append((request.command, path, request.headers.get("Range")))
        for start, (status, headers) in self.refusals.items():
            if path.startswith(start):
                return send(request, status, headers)
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
        if what == "tree":
            folders = [
                {"type": "directory", "path": name, "oid": "0" * 40} for name in {n.split("/")[0] for n in files}
            ]
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": digest(files[name])} for name in files
            ]
            return send(request, 200, body=json.dumps(folders + entries).encode())
        info = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "downloads": 0}
        return send(
            request, 200, body=json.dumps({**info, "siblings": [{"rfilename": name} for name in files]}).encode()
        )

    def send_file(self, request, commit, files, name):
        if name not in files:
            return send(request, 404, {**error("EntryNotFound", "Entry not found"), "X-Repo-Commit": commit})
        body = files[name]
        headers = {"ETag": f'"{digest(body)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if request.command == "GET" and name in self.cuts:
            return self.cuts.pop(name)(request, headers, body)
        if asked := request.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            return send(request, 206, headers, body[first:])
        return send(request, 200, headers, body)


def send(request, status, headers=None, body=b"", length=None):
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": len(body) if length is None else length}.items():
        request.send_header(name, str(value))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)
        request.wfile.flush()


def error(code, message):
    return {"X-Error-Code": code, "X-Error-Message": message}


def digest(body):
    return hashlib.sha1(body).hexdigest()


def is_download(method, path):
    return method == "GET" and "/resolve/" in path
