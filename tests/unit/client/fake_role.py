"""A program that behaves like a role, as told by its environment; run as a process of its own.

BEHAVIOUR is a JSON list, one object per attempt (the last one repeats):
  {"exit": 2, "reason": "...", "message": "..."}   end at once, with a termination message
  {"outcome": "Suspended", "reason": ...}          learner: what to report once it is told to finish
  {"ignore_terms": true}                           do not react to SIGTERM
  {"stall": true}                                  learner: report, but make no progress
  {"silent": true}                                 learner: never serve a report
Otherwise it serves HTTP until SIGTERM (130). A GET of /finish ends it with 0; a learner then
leaves finish.flag in the run folder, on which the other processes end with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("--role", "--manifest", "--address", "--http"):
    parser.add_argument(name, required=True)
parser.add_argument("--run-directory", type=Path, required=True)
parser.add_argument("--index", type=int, required=True)
parser.add_argument("--attempt", type=int, required=True)
parser.add_argument("--resume", action="store_true")
arguments = parser.parse_args()
folder: Path = arguments.run_directory
process = f"{arguments.role}-{arguments.index}"
behaviours = json.loads(os.environ.get("BEHAVIOUR", "[{}]"))
behaviour = behaviours[min(arguments.attempt, len(behaviours) - 1)]
over = threading.Event()
exit_code = 130


def leave(code: int) -> None:
    global exit_code
    exit_code = code
    over.set()


def replace(path: Path, document: object) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)


class Learner:
    """Counts an update for every look at it."""

    update = 0

    def report(self) -> dict[str, object]:
        if not behaviour.get("stall"):
            self.update += 1
        return {
            "time": "2026-01-01T00:00:00Z",
            "attempt": arguments.attempt,
            "update": self.update,
            "training": {"policyVersion": self.update, "environmentSteps": 64 * self.update},
            "stability": {"verdict": "Healthy"},
            "outcome": None,
        }


learner = Learner()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/finish":
            leave(0)
        unhealthy = self.path == "/healthz" and "unhealthy" in behaviour
        body = json.dumps(learner.report()) if self.path == "/report" else "ok"
        if unhealthy:
            body = behaviour["unhealthy"]
        self.send_response(503 if unhealthy else 200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


told = f"told RANK={os.environ.get('RANK')} OMP={os.environ.get('OMP_NUM_THREADS')}"
sys.stdout.write(f"{process} starts resume={arguments.resume} {arguments.http}\n{told}\n")
sys.stdout.flush()
if "exit" in behaviour:
    if "message" in behaviour:
        document = {"reason": behaviour["reason"], "message": behaviour["message"]}
        Path(os.environ["ASYNCRL_TERMINATION_LOG"]).write_text(json.dumps(document))
    sys.exit(behaviour["exit"])
if not behaviour.get("ignore_terms"):
    signal.signal(signal.SIGTERM, lambda *_: leave(130))
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
if not behaviour.get("silent"):
    address = {"http": f"127.0.0.1:{server.server_port}", "pid": os.getpid()}
    replace(folder / "roles" / f"{process}.json", address)
flag = folder / "finish.flag"
while not over.wait(0.02):
    if os.getppid() != int(os.environ["ASYNCRL_PARENT_PID"]):
        sys.exit(70)
    if process != "learner-0" and flag.exists():
        leave(0)
if arguments.role == "learner":
    if exit_code == 130:
        (folder / "checkpoints" / "saved").write_text(str(learner.update))
    if exit_code == 0:
        final = learner.report()
        final |= {"outcome": behaviour.get("outcome", "Complete")}
        final |= {"reason": behaviour.get("reason", "PolicyVersionsReached")}
        final |= {"training": {"policyVersion": 4711}}
        replace(folder / "roles" / "learner-0.report.json", final)
        flag.touch()
sys.exit(exit_code)
