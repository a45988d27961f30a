"""A small Hub on this machine: the few answers that `datasets` and `huggingface_hub` need to load a data set."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, str]  # path in the repository -> content
Repositories = Mapping[tuple[str, str], Files]  # (name, commit) -> files


@contextmanager
def serve(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories on 127.0.0.1. Yields the address, for HF_ENDPOINT, and the growing list of requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *args: object) -> None:
            return

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            requests.append(f"{self.command} {path}")
            for (name, commit), files in repositories.items():
                for head, answer in (
                    (f"/datasets/{name}/resolve/{commit}/", self._file),
                    (f"/api/datasets/{name}/revision/{commit}", self._about),
                    (f"/api/datasets/{name}/tree/{commit}", self._tree),
                    (f"/api/datasets/{name}/paths-info/{commit}", self._paths),
                ):
                    if path.startswith(head):
                        answer(name, commit, files, path.removeprefix(head).strip("/"))
                        return
            self._send(200 if path == "/" else 404, b"", {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str, commit: str, files: Files, path: str) -> None:
            if path not in files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            body = files[path].encode()
            etag = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            self._send(200, body, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

        def _about(self, name: str, commit: str, files: Files, path: str) -> None:
            self._json({"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]})

        def _tree(self, name: str, commit: str, files: Files, path: str) -> None:
            inside = {file: text for file, text in files.items() if file.startswith(f"{path}/" if path else "")}
            if path and not inside:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            self._json([_entry(file, text) for file, text in inside.items()])

        def _paths(self, name: str, commit: str, files: Files, path: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            self._json([_entry(file, files[file]) for file in wanted if file in files])

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def _entry(path: str, text: str) -> dict[str, object]:
    body = text.encode()
    return {
        "type": "file",
        "path": path,
        "size": len(body),
        "oid": hashlib.sha1(body, usedforsecurity=False).hexdigest(),
    }


def repository(configs: Mapping[str, Mapping[str, list[dict]]]) -> Files:
    """Files of a data set: `{configuration: {split: rows}}`."""
    readme = ["---", "configs:"]
    files = {}
    for config, splits in configs.items():
        readme += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = f"{config}/{split}.jsonl"
            readme += [f"  - split: {split}", f"    path: {path}"]
            files[path] = "".join(json.dumps(row) + "\n" for row in rows)
    return {"README.md": "\n".join([*readme, "---", ""]), **files}
