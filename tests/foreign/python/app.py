"""A plugin in Python: one file of data, and a look at what the sandbox of a Python program holds."""

import os
import socket

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.component import BackupReport, Check
from wit_world.imports import exec, run, storage
from wit_world.imports.types import Error_Failed, Outcome, Step


def seen() -> list[tuple[str, str]]:
    """What of the machine this program can reach; in an inert WASI nothing of it."""
    facts = [("environment", str(len(os.environ)))]
    for path in ["/etc/passwd", "/", ".", "/proc/self/environ"]:
        try:
            os.stat(path)
            facts.append((path, "there"))
        except OSError as error:
            facts.append((path, f"gone: {type(error).__name__}"))
    try:
        socket.create_connection(("127.0.0.1", 80), 1)
        facts.append(("network", "there"))
    except Exception as error:
        facts.append(("network", f"gone: {type(error).__name__}"))
    return facts


def counted(name: str) -> int:
    """The lines of an artifact, counted by a granted command."""
    output = exec.run(exec.Invocation("count", [], storage.get(name), None))
    if output.exit.code != 0:
        raise Err(Error_Failed(f"count: {output.exit.stderr}"))
    return int(output.stdout)


class Component(exports.Component):
    def backup(self, request):
        run.log(run.Level.INFO, "from Python", [])
        print("printed by Python")
        process = exec.spawn(exec.Invocation("dump", [("file", "shop.txt")], None, None))
        artifact = storage.put("data.txt", process.stdout(), storage.PutOptions("text/plain", True)).wait()
        return BackupReport("shop", [("size", str(artifact.size)), *seen()], [], [], [], "")

    def verify(self, request):
        lines = counted("data.txt")
        return [Check("python.lines", "the lines can be counted", Outcome.PASSED, f"{lines} lines", [], [])]

    def restore(self, request):
        if not request.plan_only:
            process = exec.spawn(exec.Invocation("load", [("file", "back.txt")], storage.get("data.txt"), None))
            if process.wait().code != 0:
                raise Err(Error_Failed("load failed"))
        run.report_step(Step("write", "back.txt", Outcome.PASSED, ""))

    def diagnose(self, request):
        raise Err(Error_Failed("this plugin knows nothing of its system"))
