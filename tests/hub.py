"""A Hub on the loopback, an object that tests change: repositories in folders, served as huggingface_hub 2.4 asks for them.

A stand-in for the service, not for its client, which is the real one. What can go wrong are fields: ``cut``, ``corrupt``,
``lie``, ``token``, ``fail_every``, ``slow``, ``redirect`` and others. ``asked`` counts requests, ``sent`` bytes of files.
Writing: ``create``, ``preupload``, LFS ``batch``, the object, ``commit``; a commit appears whole or not at all. After
python-tuf's ``repository_simulator``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEIGHTS = (".bin", ".safetensors", ".pth", ".enc", ".wkx", ".model")


class Hub(ThreadingHTTPServer):
    """The service: ``root/owner/name`` is a repository; ``url`` is what ``HF_ENDPOINT`` is set to."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.objects = root, root.parent / f"{root.name}-objects"
        self.lock = threading.Lock()
        self.token: str | None = None
        self.cut: dict[str, int] = {}  # path -> its next answer breaks off after so many bytes
        self.cuts: dict[str, list[int]] = {}  # path -> its next answers break off where these bytes of the file would come
        self.reset = False  # what breaks off is a reset of the connection, not its end
        self.no_ranges = False  # ranges are answered with the whole file
        self.list_also: list[dict[str, Any]] = []  # entries that every listing has besides
        self.wrong_at: dict[str, int] = {}  # path -> which byte ``corrupt`` changes; the middle one else
        self.corrupt: dict[str, int] = {}  # path -> so many answers with one wrong byte in the middle
        self.lie: set[str] = set()  # paths whose stated digest is another's
        self.slow = 0.0  # seconds before each answer
        self.slow_bytes = 0.0  # seconds for each byte of a file
        self.broken = False  # connections end without a word
        self.fail_every = 0  # each n-th request is answered with 503
        self.redirect = ""  # files are answered with an address there
        self.store = ""  # where a Xet store is; files are answered with their place in it
        self.fail_commit = False
        self.private: set[str] = set()
        self.strike: Callable[[int, str, str], None] | None = None  # told of (number, request, moment) of each request
        self.sent_again = 0  # objects that were there already
        self.ranges: list[tuple[str, int, int]] = []  # (path, start, stop) of every answer with bytes of a file
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.tokens: list[tuple[str, str]] = []  # (path, Authorization) of every request
        self.commits: dict[str, int] = {}
        self.known: dict[tuple[str, int], tuple[str, str]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of ours."""

    def start(self) -> Hub:
        self.root.mkdir(parents=True, exist_ok=True)
        self.objects.mkdir(exist_ok=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def break_off(self) -> None:
        """From now on no request is answered, and what is under way ends; ``broken`` is set back for a server that is back."""
        self.broken = True

    def commit_of(self, repo: str) -> str:
        return hashlib.sha1(f"{repo} {self.commits.get(repo, 0)}".encode()).hexdigest()

    def entry(self, repo: str, path: str) -> dict[str, Any]:
        file = self.root / repo / path
        key = (str(file), file.stat().st_mtime_ns)
        if key not in self.known:
            sha256, oid = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.stat().st_size)
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    sha256.update(block)
                    oid.update(block)
            self.known[key] = (sha256.hexdigest(), oid.hexdigest())
        sha256, oid = self.known[key]
        if f"{repo}/{path}" in self.lie:
            sha256 = hashlib.sha256(sha256.encode()).hexdigest()
            oid = sha256[:40]
        found: dict[str, Any] = {"type": "file", "path": path, "size": file.stat().st_size, "oid": oid}
        if path.endswith(WEIGHTS) or found["size"] >= 1024:
            found["lfs"] = {"oid": sha256, "size": found["size"], "pointerSize": 134}
        return found

    def tree(self, repo: str) -> list[dict[str, Any]]:
        folder = self.root / repo
        files = [one.relative_to(folder).as_posix() for one in sorted(folder.rglob("*")) if one.is_file()]
        return [*(self.entry(repo, one) for one in files), *self.list_also]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *words: Any) -> None:
        """Nothing is printed."""

    def reply(self, status: int, value: Any = None, **headers: str) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        plain = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        for name, text in {**plain, **{key.replace("_", "-"): one for key, one in headers.items()}}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        hub, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with hub.lock:
            hub.asked[f"{self.command} {path}"] += 1
            hub.tokens.append((path, self.headers.get("Authorization", "")))
            count = sum(hub.asked.values())
        if hub.strike:
            hub.strike(count, f"{self.command} {path}", "before")
        time.sleep(hub.slow)
        if hub.broken:
            self.close_connection = True
            return None
        if hub.fail_every and count % hub.fail_every == 0:
            return self.reply(503, {"error": "busy"})
        if hub.token and "/objects/" not in path and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, {"error": "no"}, X_Error_Code="GatedRepo", X_Error_Message="give a token")
        for pattern, answer in ROUTES:
            if (found := re.fullmatch(pattern, path)) is not None:
                answer(self, body, *found.groups())
                if hub.strike:
                    hub.strike(count, f"{self.command} {path}", "after")
                return None
        return self.reply(404, {"error": "nothing"}, X_Error_Code="EntryNotFound")

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

    def exists(self, repo: str) -> bool:
        if ".." in repo.split("/") or not (self.server.root / repo).is_dir():
            self.reply(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound", X_Error_Message="no such repository")
            return False
        return True

    def about(self, body: bytes, repo: str) -> None:
        if self.exists(repo):
            hub = self.server
            card = hub.root / repo / "README.md"
            licence = re.search(r"^license: (.+)$", card.read_text(), re.M) if card.is_file() else None
            facts = {
                "_id": "0" * 24,
                "id": repo,
                "modelId": repo,
                "sha": hub.commit_of(repo),
                "private": repo in hub.private,
                "gated": False,
            }
            more = {
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [f"license:{licence[1]}"] if licence else [],
                "siblings": [],
            }
            self.reply(200, {**facts, **more})

    def listing(self, body: bytes, repo: str, revision: str, inside: str | None) -> None:
        if self.exists(repo):
            self.reply(200, [one for one in self.server.tree(repo) if not inside or one["path"].startswith(inside)])

    def paths(self, body: bytes, repo: str, revision: str) -> None:
        if self.exists(repo):
            form = json.loads(body) if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())
            self.reply(200, [one for one in self.server.tree(repo) if one["path"] in form.get("paths", ())])

    def file(self, body: bytes, repo: str, revision: str, path: str) -> None:
        hub, name = self.server, f"{repo}/{path}"
        if not (hub.root / name).is_file() or ".." in name.split("/"):
            return self.reply(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Error_Message="no such file")
        entry = hub.entry(repo, path)
        size, etag = entry["size"], entry.get("lfs", entry)["oid"]
        facts = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "X-Repo-Commit": hub.commit_of(repo)}
        if "lfs" in entry:
            facts |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
        if hub.store:
            route = f"{hub.url}/api/models/{repo}/xet-read-token/{revision}"
            facts |= {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": route}
        if hub.redirect:
            return self.reply(
                302, None, **{key.replace("-", "_"): one for key, one in facts.items()}, Location=f"{hub.redirect}/{name}"
            )
        if (match := self.headers.get("If-Match")) and match != facts["ETag"]:
            return self.reply(412, {"error": "another version"})
        wanted = None if hub.no_ranges else re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(wanted[1]), min(int(wanted[2] or size), size - 1) + 1) if wanted else (0, size)
        if wanted and start >= size:
            return self.reply(416, None, Content_Range=f"bytes */{size}")
        self.send_response(206 if wanted else 200)
        facts |= {"Content-Length": str(stop - start)} | (
            {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if wanted else {}
        )
        for key, one in facts.items():
            self.send_header(key, one)
        self.end_headers()
        if self.command != "HEAD":
            self.send_range(name, start, stop, size)

    def xet_token(self, body: bytes, repo: str, revision: str) -> None:
        more = {"X-Xet-Cas-Url": self.server.store, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": "9999999999"}
        self.reply(200, {}, **{key.replace("-", "_"): one for key, one in more.items()})

    def send_range(self, name: str, start: int, stop: int, size: int) -> None:
        hub = self.server
        with hub.lock:
            hub.ranges.append((name, start, stop))
            last = min(stop, start + hub.cut.pop(name)) if name in hub.cut else stop
            if hub.cuts.get(name) and start <= hub.cuts[name][0] < last:
                last = hub.cuts[name].pop(0)
            wrong_at = hub.wrong_at.get(name, size // 2)
            wrong = hub.corrupt.get(name, 0) > 0 and start <= wrong_at < last
            hub.corrupt[name] = hub.corrupt.get(name, 0) - wrong
        with (hub.root / name).open("rb") as file:
            file.seek(start)
            for at in range(start, last, 1 << 20):
                if hub.broken:
                    self.close_connection = True
                    return
                content = bytearray(file.read(min(1 << 20, last - at)))
                if wrong and at <= wrong_at < at + len(content):
                    content[wrong_at - at] ^= 1
                self.wfile.write(content)
                with hub.lock:
                    hub.sent[name] += len(content)
                time.sleep(hub.slow_bytes * len(content))
        if last < stop:
            self.close_connection = True
            if hub.reset:
                self.wfile.flush()
                time.sleep(0.05)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_WR)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if (self.server.root / repo).is_dir():
            return self.reply(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(repo)
        (self.server.root / repo).mkdir(parents=True)
        return self.reply(200, {"url": f"{self.server.url}/{repo}", "id": repo})

    def validate_yaml(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        front = text.split("---\n")[1] if text.startswith("---\n") else ""
        wrong = [one for one in front.splitlines() if not re.match(r"[\w-]+:|- |  ", one)]
        found = [{"message": f"no metadata: {one}"} for one in wrong]
        self.reply(400 if found else 200, {"errors": found, "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        named = [
            {**one, "uploadMode": "lfs" if one["path"].endswith(WEIGHTS) else "regular"} for one in json.loads(body)["files"]
        ]
        facts = [{"path": one["path"], "uploadMode": one["uploadMode"], "shouldIgnore": False, "oid": None} for one in named]
        self.reply(200, {"files": facts})

    def batch(self, body: bytes, repo: str) -> None:
        hub = self.server
        found = []
        for one in json.loads(body)["objects"]:
            there = (hub.objects / one["oid"]).is_file()
            upload = {"upload": {"href": f"{hub.url}/objects/{one['oid']}", "header": {}}}
            found.append({"oid": one["oid"], "size": one["size"], **({} if there else {"actions": upload})})
        self.reply(200, {"transfer": "basic", "objects": found})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.reply(400, {"error": "another object"})
        self.server.sent_again += (self.server.objects / oid).is_file()
        (self.server.objects / oid).write_bytes(body)
        return self.reply(200, {})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        hub = self.server
        lines = [json.loads(line) for line in body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if hub.fail_commit or (parent and parent != hub.commit_of(repo)):
            return self.reply(412, {"error": "the branch has moved"})
        new = hub.root / f".{repo.replace('/', '-')}-{time.monotonic_ns()}"
        shutil.copytree(hub.root / repo, new)
        for line in lines[1:]:
            value = line["value"]
            target = new / value["path"]
            if line["key"] == "deletedFile":
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "lfsFile":
                target.write_bytes((hub.objects / value["oid"]).read_bytes())
            elif line["key"] == "file":
                target.write_bytes(base64.b64decode(value["content"]))
        old = new.with_name(f"{new.name}-old")
        with hub.lock:
            (hub.root / repo).rename(old)
            new.rename(hub.root / repo)
            hub.commits[repo] = hub.commits.get(repo, 0) + 1
        shutil.rmtree(old)
        self.reply(
            200,
            {"success": True, "commitOid": hub.commit_of(repo), "commitUrl": f"{hub.url}/{repo}/commit/{hub.commit_of(repo)}"},
        )


REPO = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    ("/api/repos/create", Answer.create),
    ("/api/validate-yaml", Answer.validate_yaml),
    (rf"/api/models/{REPO}(?:/revision/[^/]+)?", Answer.about),
    (rf"/api/models/{REPO}/tree/([^/]+)(?:/(.*))?", Answer.listing),
    (rf"/api/models/{REPO}/xet-read-token/([^/]+)", Answer.xet_token),
    (rf"/api/models/{REPO}/paths-info/([^/]+)", Answer.paths),
    (rf"/api/models/{REPO}/preupload/([^/]+)", Answer.preupload),
    (rf"/{REPO}\.git/info/lfs/objects/batch", Answer.batch),
    (r"/objects/([0-9a-f]{64})", Answer.put),
    (rf"/api/models/{REPO}/commit/([^/]+)", Answer.commit),
    (rf"/{REPO}/resolve/([^/]+)/(.+)", Answer.file),
    (rf"/resolved/{REPO}()/(.+)", Answer.file),
]
