"""A stand-in for a model hub: the part of its API that an upload uses, which demands what the real one demands."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import yaml

TOKEN = "hf_of_the_test"
USER, ABSENT = "me", "nobody"     # the token's user; a namespace that does not exist
LICENCES = ("apache-2.0", "mit", "other")
LFS_JSON = "application/vnd.git-lfs+json"


@dataclass
class Repository:
    """branches: files by branch. commits: (branch, summary) in order."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Hub:
    """What the hub holds. stored: content of large files by sha256; verified: those that the client has confirmed."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "", **more: Any) -> None:
        self.status, self.code, self.body = status, code, {"error": message, **more}


def demand(holds: object, message: str, status: int = 400, code: str = "") -> None:
    if not holds:
        raise RefusedError(status, message, code)


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.asked.append(f"{self.command} {self.path}")
        try:
            status, answer, code = 200, self.answer(body), ""
        except RefusedError as refused:
            status, answer, code = refused.status, refused.body, refused.code
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        if status >= 400:
            self.send_header("X-Error-Message", answer["error"])
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = handle_request

    def answer(self, body: bytes) -> Any:
        if match := re.fullmatch(r"PUT /store/(\w{64})", f"{self.command} {self.path}"):  # the address permits it
            demand(hashlib.sha256(body).hexdigest() == match[1], "the content is another one")
            self.hub.stored[match[1]] = body
            return {}
        demand(self.headers.get("Authorization") == f"Bearer {TOKEN}", "Invalid credentials in Authorization header",
               401)
        for name, (method, pattern) in ROUTES.items():
            if self.command == method and (match := re.fullmatch(pattern, self.path)):
                return getattr(self, name)(*match.groups(), body)
        raise RefusedError(404, f"no such address: {self.path}")

    def repository(self, name: str) -> Repository:
        demand(name in self.hub.repositories, "Repository not found", 404, "RepoNotFound")
        return self.hub.repositories[name]

    def branch(self, name: str, revision: str) -> dict[str, bytes]:
        branches = self.repository(name).branches
        demand(revision in branches, f"Invalid rev id: {revision}", 404, "RevisionNotFound")
        return branches[revision]

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        space = asked["organization"] or USER
        demand(space != ABSENT, "no such user or organization", 404)
        demand(space == USER, "You don't have the rights to create a model under this namespace", 403)
        name, url = f"{space}/{asked['name']}", f"{self.hub.url}/{space}/{asked['name']}"
        if name in self.hub.repositories:
            raise RefusedError(409, "You already created this model repo", url=url)
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        return {"url": url, "name": name}

    def info(self, name: str, _body: bytes) -> Any:
        return {"id": name, "private": self.repository(name).private, "sha": "0" * 40, "siblings": []}

    def make_branch(self, name: str, revision: str, _body: bytes) -> Any:
        branches = self.repository(name).branches
        demand(revision not in branches, "Reference already exists", 409)
        branches[revision] = dict(branches["main"])
        return {}

    def validate(self, body: bytes) -> Any:
        asked = json.loads(body)
        header = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        demand(header and asked["repoType"] == "model", "no header")
        data = yaml.safe_load(header[1])
        if (licence := data.get("license", "mit")) not in LICENCES:
            raise RefusedError(400, "invalid", errors=[{"message": f'"license" must be one of {LICENCES}; {licence}'}],
                               warnings=[])
        demand(isinstance(data["tags"], list) and data["library_name"], "tags, library_name")
        return {"errors": [], "warnings": []}

    def preupload(self, name: str, revision: str, body: bytes) -> Any:
        self.branch(name, revision)
        files = json.loads(body)["files"]
        large = {file["path"]: b"\0" in base64.b64decode(file["sample"]) or file["size"] > 10_000_000 for file in files}
        return {"files": [{"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False,
                           "oid": None} for path, is_large in large.items()]}

    def batch(self, name: str, body: bytes) -> Any:
        demand(self.headers["Accept"] == self.headers["Content-Type"] == LFS_JSON, f"headers must be {LFS_JSON}")
        asked = json.loads(body)
        demand((asked["operation"], asked["hash_algo"]) == ("upload", "sha256"), "operation")
        self.branch(name, asked["ref"]["name"])
        actions = {"upload": "store", "verify": "verify"}
        return {"transfer": "basic", "objects": [{**entry, "actions": {
            action: {"href": f"{self.hub.url}/{place}/{entry['oid']}"} for action, place in actions.items()}}
            for entry in asked["objects"]]}

    def verify(self, digest: str, body: bytes) -> Any:
        demand(json.loads(body) == {"oid": digest, "size": len(self.hub.stored.get(digest, b""))}, "not uploaded", 404)
        self.hub.verified.add(digest)
        return {}

    def commit(self, name: str, revision: str, body: bytes) -> Any:
        demand(self.headers["Content-Type"] == "application/x-ndjson", "must be NDJSON")
        files = self.branch(name, revision)
        header, *lines = [json.loads(line) for line in body.splitlines()]
        demand(header["key"] == "header" and header["value"]["summary"], "the first line must be the header")
        for line in lines:
            value = line["value"]
            if line["key"] == "lfsFile":
                demand(value["algo"] == "sha256" and value["oid"] in self.hub.verified, "large file not uploaded")
                files[value["path"]] = self.hub.stored[value["oid"]]
            else:
                demand((line["key"], value["encoding"]) == ("file", "base64"), "unknown line")
                files[value["path"]] = base64.b64decode(value["content"])
                demand(b"\0" not in files[value["path"]], "binary files must be large files")
        self.repository(name).commits.append((revision, header["value"]["summary"]))
        return {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.hub.url}/{name}/commit/{'1' * 40}",
                "hookOutput": ""}


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {"create": ("POST", "/api/repos/create"), "info": ("GET", f"/api/models/{NAME}"),
          "make_branch": ("POST", f"/api/models/{NAME}/branch/(.+)"), "validate": ("POST", "/api/validate-yaml"),
          "preupload": ("POST", f"/api/models/{NAME}/preupload/(.+)"),
          "batch": ("POST", rf"/{NAME}\.git/info/lfs/objects/batch"), "verify": ("POST", r"/verify/(\w{64})"),
          "commit": ("POST", f"/api/models/{NAME}/commit/(.+)")}


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
