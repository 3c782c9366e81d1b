"""A run in optuna-dashboard, while it searches or afterwards."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from flashnas.api.calling import Figures, takes
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.hints import shown_path
from flashnas.base.settings import REQUIRED, Settings, option

EVERY_S = 5.0             # between two looks at the run


@dataclass(frozen=True, kw_only=True)
class DashboardOptions(Settings, where="dashboard"):
    run: Path = option(REQUIRED, "run folder, finished or not", positional=True)
    host: str = option("127.0.0.1", "address to listen at; others than this machine's show the run to all")
    port: int = option(8080, "to listen at; 0: a free one", metavar="N", min=0, max=65535)


class Server(ThreadingMixIn, WSGIServer):
    """One thread for each request."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    """Requests are not logged."""

    def log_message(self, *_: Any) -> None: ...


@takes(DashboardOptions)
def dashboard(options: DashboardOptions, *, note: Callable[[str], None] = print) -> Figures:
    """Show a run in optuna-dashboard until Ctrl-C. The run is only read, again every few seconds.

    Returns:
        Figures: `run`, `url` and `trials`, as last shown.
    """
    try:
        from optuna.artifacts import FileSystemArtifactStore, upload_artifact
        from optuna_dashboard import save_note, wsgi
    except ImportError:
        raise ConfigError("dashboard needs the package optuna-dashboard: pip install 'flashnas[dashboard]'"
                          ) from None
    from flashnas.runs.study_view import StudyView

    view = StudyView(options.run, save_note)
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
        store, shown = FileSystemArtifactStore(folder), dict[str, str]()
        app = wsgi(view.study._storage, artifact_store=store)

        def pictures() -> None:
            for path in sorted(view.run.path.glob("*.png")):
                if path.name in shown:
                    shutil.copyfile(path, Path(folder) / shown[path.name])
                else:
                    shown[path.name] = upload_artifact(artifact_store=store, file_path=str(path),
                                                       study_or_trial=view.study)

        def read_only(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
                return app(environ, start_response)
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"reason": "flashnas shows a run and does not change it"}']

        pictures()
        try:
            server = make_server(options.host, options.port, read_only, Server, QuietHandler)
        except (OSError, TypeError, UnicodeError) as error:  # the latter of a name that no host has
            options.wrong("host", f"{shown_path(options.host)}:{options.port} cannot be used:"
                                  f" {getattr(error, 'strerror', None) or error}; choose another --port")
        url = f"http://{options.host}:{server.server_port}/dashboard/studies/{view.study._study_id}"

        def follow() -> None:
            while not ended.wait(EVERY_S):
                try:
                    view.refresh()
                    pictures()
                except (FlashnasError, OSError) as error:  # the next look may find it whole again
                    note(f"not read: {error}")

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        note(f"{url} shows {view.run.path}; Ctrl-C ends it")
        try:
            with server:
                server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            ended.set()
            follower.join()
    return Figures({"run": str(view.run.path), "url": url, "trials": view.count},
                   lambda values: f"{values['trials']} trials of {values['run']} were shown")
