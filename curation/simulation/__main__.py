"""`python -m curation.simulation --table T.parquet --seed 7 --log DIR` serves the offline stand-in until it is stopped."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from curation.simulation.defects import parse_rates


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    options = _parser().parse_args(argv)
    if options.host not in ("127.0.0.1", "::1", "localhost"):
        print("the offline stand-in listens on loopback only", file=sys.stderr)
        return 2
    try:
        rates = parse_rates(options.rates)
    except ValueError as error:
        print(f"--rates: {error}", file=sys.stderr)
        return 2
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        print(f"port {options.port}: {error.strerror}", file=sys.stderr)
        return 2
    return _serve(listener, options, rates)


def _serve(listener: socket.socket, options: argparse.Namespace, rates: dict[str, float]) -> int:
    import uvicorn

    from curation.simulation.provider import Answers
    from curation.simulation.server import Batches, Faults, Log, Standin, make_app

    errors = {429: options.error_429, 500: options.error_500, 529: options.error_529}
    faults = Faults(errors, options.latency, options.batch_seconds, options.batch_errors, options.key)
    log = Log(options.log)
    answers = Answers.load(options.table, seed=options.seed, rates=rates, collapses=options.collapse)
    app = make_app(Standin(answers, log, faults, Batches(options.log / "batches", options.batch_seconds), before=log.answered()))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    listener.listen(256)
    url = f"http://{options.host}:{listener.getsockname()[1]}"
    if options.state is not None:
        _write_state(options.state, {"url": url, "pid": os.getpid(), "log": str(options.log)})
    print(f"Offline stand-in on {url}", flush=True)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        log.close()
    return 0


def _write_state(path: Path, state: dict[str, object]) -> None:
    aside = path.with_name(path.name + ".part")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(state, file)
    aside.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m curation.simulation", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--table", type=Path, help="Parquet table of codes; without it only open briefs are answered")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log", type=Path, required=True, help="folder outside the project for the request log and the planted truth")
    parser.add_argument("--state", type=Path, help="file that gets the address and the process id")
    parser.add_argument("--rates", default="", help="flaw rates laid over the defaults: wrong_code=0.1,refusal=0")
    parser.add_argument("--collapse", action="store_true", help="repeat ideas by the law in collapse.py, whatever is asked")
    parser.add_argument("--key", help="the only key accepted (any key by default)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--batch-seconds", type=float, default=0.5)
    parser.add_argument("--batch-errors", type=float, default=0.0, help="share of a batch's requests that end errored; half as many expire")
    for status in (429, 500, 529):
        parser.add_argument(f"--error-{status}", type=float, default=0.0, help=f"share of the requests answered {status}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
