"""A small Hub in memory: enough of the Hugging Face Hub's HTTP interface for the real client libraries, with faults.

It answers what huggingface_hub, transformers and datasets ask when they create, fill, list and read repositories:
repositories with branches, tags, commits and LFS objects, private and gated ones, settings, collections. It was
written from the client's requests, so it proves that ours are well-formed, not that the real Hub's rules are met.

    with HubServer() as hub:
        hub.url, hub.token                      # HF_ENDPOINT and HF_TOKEN for a client (also: HF_HUB_DISABLE_XET=1)
        hub.fail("POST", "/commit/", status=503, times=2)
        hub.requests                            # [(method, path, body bytes)]
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 10_000
PART_BYTES = 5 * 2**20  # larger LFS objects are sent in parts of this size, as the Hub asks for above 5 GB
LFS_NAMES = re.compile(r"\.(safetensors|parquet|bin|npz|pt)$")
MAX_CARD = 2**20
LICENSES = {"unknown", "apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "other"}


@dataclass(frozen=True)
class Blob:
    """A file's content as a repository holds it."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        )

    @property
    def git_oid(self) -> str:
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})

    def add(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        seed = f"{self.kind}{self.name}{parent}{title}{len(self.commits)}{time.time_ns()}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, title, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match."""

    method: str
    path: str
    status: int | None
    drop: bool
    cut: bool
    seconds: float
    times: int
    skip: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """The server: start it with `with`, read `url` and `token`, look into `repos`, `lfs` and `requests`."""

    def __init__(self) -> None:
        self.token, self.reader_token = "hf_testOwnerToken1234", "hf_testReaderToken5678"
        self.users = {self.token: "owner", self.reader_token: "reader"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.http = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = None,
        drop: bool = False,
        cut: bool = False,
        seconds: float = 0,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Make requests fail: answer `status`, `drop` the connection unanswered, `cut` a body short, or be slow.

        The first `skip` that match pass, the next `times` fail.
        """
        self.faults.append(Fault(method, path, status, drop, cut, seconds, times, skip))

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def sent(self, method: str = "", path: str = "") -> list[tuple[str, str, int]]:
        """The requests so far that match."""
        return [r for r in self.requests if method in r[0] and re.search(path, r[1])]


class Answer(Exception):
    """Ends the handling of a request with this status and body."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


def refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": message}, **{"X-Error-Code": code, "X-Error-Message": message})


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        hub, self.route, self.query = self.server_hub, unquote(parts.path), parse_qs(parts.query)
        fault = hub.fault_for(self.command, self.route)
        self.cut = bool(fault and fault.cut)
        if fault:
            threading.Event().wait(fault.seconds)
            if fault.drop:
                self.close_connection = True
                self.connection.close()
                return
        self.body = self.read_body()
        hub.requests.append((self.command, self.route, len(self.body)))
        try:
            if fault and fault.status:
                raise Answer(fault.status, {"error": f"injected {fault.status}"}, **{"Retry-After": "1"})
            with hub.lock:
                self.dispatch()
            raise refusal(404, "", f"no route {self.command} {self.route}")
        except Answer as answer:
            self.reply(answer)

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, answer: Answer) -> None:
        body = answer.body
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
            answer.headers.setdefault("Content-Type", "application/json")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            if self.cut:
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(body)

    # who asks, and for what

    @property
    def user(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        user = self.server_hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise refusal(401, "", "Invalid credentials in Authorization header")
        return user

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def repo(self, kind: str, name: str, write: bool = False, content: bool = False) -> Repo:
        repo = self.server_hub.repos.get((kind, name))
        owner = self.user == name.split("/")[0]
        if repo is None or (repo.private and not owner):
            raise refusal(401 if self.user is None else 404, "RepoNotFound", "Repository not found")
        if write and not owner:
            raise refusal(403, "", "You have read access, but not write access")
        if content and repo.gated and not owner:
            raise refusal(403 if self.user else 401, "GatedRepo", f"Access to {name} is restricted")
        return repo

    def commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def dispatch(self) -> None:
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, self.route)
            if match and self.command in method.split():
                getattr(self, name)(*match.groups())

    # answers

    def whoami(self) -> None:
        if self.user is None:
            raise refusal(401, "", "Invalid username or password.")
        token = {"accessToken": {"displayName": "test", "role": "write"}}
        raise Answer(200, {"type": "user", "name": self.user, "orgs": [], "auth": token})

    def create(self) -> None:
        wanted = self.json()
        kind = wanted.get("type") or "model"
        owner = wanted.get("organization") or self.user
        if self.user is None:
            raise refusal(401, "", "Invalid username or password.")
        if owner != self.user:
            raise refusal(403, "", f"You don't have the rights to create a {kind} under the namespace {owner}")
        name = f"{owner}/{wanted['name']}"
        url = {
            "url": f"{self.server_hub.url}/{'' if kind == 'model' else kind + 's/'}{name}",
            "name": name,
            "id": name,
        }
        if (kind, name) in self.server_hub.repos:
            raise Answer(409, {**url, "error": "You already created this repo"})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server_hub.repos[kind, name] = Repo(kind, name, private)
        raise Answer(200, url)

    def settings(self, kind: str, name: str) -> None:
        repo, wanted = self.repo(kind, name, write=True), self.json()
        if "visibility" in wanted or "private" in wanted:
            repo.private = wanted.get("visibility") == "private" or wanted.get("private") is True
        repo.gated = wanted.get("gated", repo.gated)
        raise Answer(200, {})

    def validate(self) -> None:
        errors = card_errors(self.json()["content"], self.json().get("repoType", "model"))
        raise Answer(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": []})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        repo = self.repo(kind, name)
        commit = self.commit(repo, revision or "main")
        raise Answer(
            200,
            {
                "_id": "0" * 24,
                "id": name,
                "modelId": name,
                "author": name.split("/")[0],
                "sha": commit.oid,
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
                "private": repo.private,
                "gated": repo.gated,
                "disabled": False,
                "tags": [],
                "cardData": card_data(commit),
                "lastModified": commit.date,
                "createdAt": commit.date,
                "downloads": 0,
                "likes": 0,
            },
        )

    def preupload(self, kind: str, name: str, revision: str) -> None:
        files = self.commit(self.repo(kind, name, write=True), revision).files
        answers = []
        for wanted in self.json()["files"]:
            path, held = wanted["path"], files.get(wanted["path"])
            lfs = wanted["size"] >= LFS_BYTES or bool(LFS_NAMES.search(path))
            oid = (held.sha256 if held.lfs else held.git_oid) if held else None
            mode = "lfs" if lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        raise Answer(200, {"files": answers})

    def lfs_batch(self, prefix: str | None, name: str) -> None:
        kind = (prefix or "models/").removesuffix("s/")
        self.repo(kind, name, write=True)
        objects = []
        for wanted in self.json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.server_hub.lfs:
                entry["actions"] = {"upload": self.upload_action(oid, size)}
            objects.append(entry)
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def upload_action(self, oid: str, size: int) -> dict[str, Any]:
        place = f"{self.server_hub.url}/lfs-store/{oid}"
        if size <= PART_BYTES:
            return {"href": place}
        self.server_hub.parts[oid] = {}
        numbers = range(1, -(-size // PART_BYTES) + 1)
        addresses = {f"{number:05d}": f"{place}/{number}" for number in numbers}
        return {"href": place, "header": {"chunk_size": str(PART_BYTES), **addresses}}

    def lfs_part(self, oid: str, number: str) -> None:
        self.server_hub.parts[oid][int(number)] = self.body
        raise Answer(200, {}, ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def lfs_complete(self, oid: str) -> None:
        held, told = self.server_hub.parts[oid], self.json()["parts"]
        tags = {part["partNumber"]: part["etag"].strip('"') for part in told}
        if tags != {number: hashlib.md5(part).hexdigest() for number, part in held.items()}:
            raise Answer(400, {"error": "parts are missing or differ from their tags"})
        self.body = b"".join(held[number] for number in sorted(held))
        self.lfs_put(oid)

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, {"error": "content does not match its oid"})
        self.server_hub.lfs[oid] = self.body
        raise Answer(200, {})

    def make_commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        if revision not in repo.branches:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = dict(self.commit(repo, revision).files)
        title = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repo.branches[revision]):
                    raise refusal(412, "", "The expected parent commit is not the head")
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.server_hub.lfs:
                    raise refusal(400, "", f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = Blob(self.server_hub.lfs[value["oid"]], True)
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {p: b for p, b in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
        if "README.md" in files:
            errors = card_errors(files["README.md"].data.decode(), kind)
            if errors:
                raise refusal(400, "", errors[0])
        commit = repo.add(revision, title, files)
        place = f"{self.server_hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        raise Answer(200, {"success": True, "commitOid": commit.oid, "commitUrl": f"{place}/commit/{commit.oid}"})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        commit = self.commit(self.repo(kind, name), revision)
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            steps = path[len(prefix) :].split("/")
            for depth in range(1, len(steps)):
                parent = prefix + "/".join(steps[:depth])
                entries.setdefault(parent, {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent})
            entries[path] = entry_of(path, blob, commit)
        if not entries:
            raise refusal(404, "EntryNotFound", f"{folder} does not exist")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        raise Answer(200, [e for p, e in entries.items() if recursive or "/" not in p[len(prefix) :]])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        commit = self.commit(self.repo(kind, name), revision)
        if "json" in self.headers.get("Content-Type", ""):
            wanted = self.json()["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        found = []
        for path in wanted:
            if path in commit.files:
                found.append(entry_of(path, commit.files[path], commit))
            elif any(p.startswith(path.rstrip("/") + "/") for p in commit.files):
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        raise Answer(200, found)

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
        raise Answer(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def commits(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        commit: Commit | None = self.commit(repo, revision)
        found = []
        while commit is not None:
            entry = {"id": commit.oid, "title": commit.title, "message": "", "authors": [], "date": commit.date}
            found.append(entry)
            commit = repo.commits.get(commit.parent or "")
        raise Answer(200, found, **{"X-Total-Count": str(len(found))})

    def branch(self, kind: str, name: str, branch: str) -> None:
        repo = self.repo(kind, name, write=True)
        if self.command == "DELETE":
            repo.branches.pop(branch, None)
            raise Answer(200, {})
        if branch in repo.branches:
            raise refusal(409, "", "Reference already exists")
        repo.branches[branch] = self.commit(repo, self.json().get("startingPoint") or "main").oid
        raise Answer(200, {})

    def tag(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        if self.command == "DELETE":
            repo.tags.pop(revision, None)
            raise Answer(200, {})
        tag = self.json()["tag"]
        if tag in repo.tags:
            raise refusal(409, "", "Tag reference exists already")
        repo.tags[tag] = self.commit(repo, revision).oid
        raise Answer(200, {})

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        repo = self.repo((prefix or "models/").removesuffix("s/"), name, content=True)
        commit = self.commit(repo, revision)
        if path not in commit.files:
            headers = {
                "X-Repo-Commit": commit.oid,
                "X-Error-Code": "EntryNotFound",
                "X-Error-Message": "Entry not found",
            }
            raise Answer(404, {"error": "Entry not found"}, **headers)
        blob = commit.files[path]
        headers = {
            "ETag": f'"{blob.sha256 if blob.lfs else blob.git_oid}"',
            "X-Repo-Commit": commit.oid,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if span is None or not (span[1] or span[2]):
            raise Answer(200, blob.data, **headers)
        size = len(blob.data)
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        stop = min(size, int(span[2]) + 1) if span[1] and span[2] else size
        if start >= size:
            raise Answer(416, b"", **{"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        raise Answer(206, blob.data[start:stop], **headers)

    def make_collection(self) -> None:
        wanted = self.json()
        words = re.sub(r"[^a-z0-9]+", "-", wanted["title"].lower()).strip("-")
        slug = f"{wanted['namespace']}/{words}-{hashlib.sha1(words.encode()).hexdigest()[:24]}"
        if slug in self.server_hub.collections:
            raise Answer(409, {"slug": slug, "error": "exists"})
        self.server_hub.collections[slug] = collection = {
            "slug": slug,
            "title": wanted["title"],
            "owner": {"name": self.user},
            "items": [],
            "lastUpdated": "2026-01-01T00:00:00.000Z",
            "position": 0,
            "private": wanted.get("private", False),
            "theme": "blue",
            "upvotes": 0,
        }
        raise Answer(200, collection)

    def collection(self, slug: str) -> None:
        if slug not in self.server_hub.collections:
            raise refusal(404, "", "Collection not found")
        raise Answer(200, self.server_hub.collections[slug])

    def collection_item(self, slug: str) -> None:
        collection, item = self.server_hub.collections[slug], self.json()["item"]
        if any(held["id"] == item["id"] for held in collection["items"]):
            raise Answer(409, {"error": "exists"})
        collection["items"].append({"_id": "0" * 24, **item, "position": len(collection["items"])})
        raise Answer(200, collection)


def entry_of(path: str, blob: Blob, commit: Commit) -> dict[str, Any]:
    last = {"id": commit.oid, "title": commit.title, "date": commit.date}
    entry = {"type": "file", "oid": blob.git_oid, "size": len(blob.data), "path": path, "lastCommit": last}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry


def card_data(commit: Commit) -> Any:
    import yaml

    readme = commit.files.get("README.md")
    block = re.match(rb"---\n(.*?)\n---", readme.data, re.DOTALL) if readme else None
    return yaml.safe_load(block[1]) if block else None


def card_errors(text: str, kind: str) -> list[str]:
    """Rules in the spirit of the Hub's: a readable YAML mapping, a known licence, a complete model-index."""
    import yaml

    block = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    if block is None:
        return []
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata block is not a mapping"]
    errors = []
    if "license" in data and data["license"] not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    for index in data.get("model-index") or []:
        for result in index.get("results", []):
            if not result.get("task", {}).get("type") or not result.get("dataset", {}).get("type"):
                errors.append('"model-index" results need task.type and dataset.type')
            if any("value" not in metric or "type" not in metric for metric in result.get("metrics", [])):
                errors.append('"model-index" metrics need type and value')
    return errors


KIND, NAME, REST = r"(model|dataset|space)s", r"([^/]+/[^/]+)", r"(.+)"
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("PUT", f"/api/{KIND}/{NAME}/settings", "settings"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", f"/api/{KIND}/{NAME}/preupload/{REST}", "preupload"),
    ("POST", f"/(datasets/|spaces/)?{NAME}.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", "/lfs-store/([0-9a-f]{64})", "lfs_put"),
    ("PUT", r"/lfs-store/([0-9a-f]{64})/(\d+)", "lfs_part"),
    ("POST", "/lfs-store/([0-9a-f]{64})", "lfs_complete"),
    ("POST", f"/api/{KIND}/{NAME}/commit/{REST}", "make_commit"),
    ("GET", f"/api/{KIND}/{NAME}/tree/([^/]+)", "tree"),
    ("GET", f"/api/{KIND}/{NAME}/tree/([^/]+)/{REST}", "tree"),
    ("POST", f"/api/{KIND}/{NAME}/paths-info/{REST}", "paths_info"),
    ("GET", f"/api/{KIND}/{NAME}/refs", "refs"),
    ("GET", f"/api/{KIND}/{NAME}/commits/{REST}", "commits"),
    ("POST DELETE", f"/api/{KIND}/{NAME}/branch/{REST}", "branch"),
    ("POST DELETE", f"/api/{KIND}/{NAME}/tag/{REST}", "tag"),
    ("GET", f"/api/{KIND}/{NAME}/revision/{REST}", "info"),
    ("GET", f"/api/{KIND}/{NAME}", "info"),
    ("POST", "/api/collections", "make_collection"),
    ("GET", f"/api/collections/{NAME}", "collection"),
    ("POST", f"/api/collections/{NAME}/items?", "collection_item"),
    ("GET HEAD", f"/(datasets/|spaces/)?{NAME}/resolve/([^/]+)/{REST}", "resolve"),
]
