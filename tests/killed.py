"""A command in a process of its own that can be killed, without waiting for its imports.

    started = start(["minilora.fit", "--steps", "3"], errors=path, kind="replace", last=7)

A fork server (Python's multiprocessing) imports torch and minilora once; each process begins as a
copy of it and runs the command as `python -m` does.  So a kill costs the work of the command, and
not the seconds of the imports.  It is a process of the operating system all the same: SIGKILL ends
it, and its locks and open files end with it.
"""
import builtins
import multiprocessing
import os
import runpy
import signal
import sys
import time
from multiprocessing import forkserver

from conftest import REPO

# torch._dynamo: an optimiser imports it, which takes two seconds
PRELOADED = ("killed", "torch", "torch.distributed", "torch._dynamo", "small", "minilora.fit",
             "minilora.predict", "minilora.search.run", "minilora.pretrain.train",
             "minilora.runs.run_all", "minilora.report", "minilora.io.temporary")
CONTEXT = multiprocessing.get_context("forkserver")


def start_server():
    """Start the fork server.  It does not compute: threads would be missing in the copies."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (REPO / "tests", REPO)))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def start(command, errors, kind="open", last=0, output=os.devnull, **environment):
    """The started process: a multiprocessing.Process.

    command: a module and its options;  errors, output: files to which stderr and stdout are added;
    kind, last: as in `kill_at_call`;  environment: variables of this process.
    """
    start_server()
    process = CONTEXT.Process(target=run_command, args=(command, errors, kind, last, output,
                                                        environment))
    process.start()
    return process


def run_command(command, errors, kind, last, output, environment):
    """Runs in the new process."""
    from minilora.io import temporary
    temporary.PROCESS_START = time.time()               # not when the server began
    os.environ.update(environment)
    os.chdir(REPO)
    for name, stream in ((output, 1), (errors, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    calls, leave = kill_at_call(kind, last), os._exit

    def leave_with_calls(status):                       # at the end of every process of the server
        print(f"calls {calls[0]}", file=sys.stderr, flush=True)
        leave(status)
    os._exit = leave_with_calls
    sys.argv = list(command)
    sys.modules.pop(command[0], None)                   # it runs as __main__
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def kill_at_call(kind, last):
    """This process kills itself just before the call number `last` (0: never) of a function.

    kind: "open" (for writing), or the name of a function of os.  Returns [calls until now].
    """
    calls, owner = [0], builtins if kind == "open" else os
    function = getattr(owner, kind)

    def counted(*arguments, **options):
        mode = options.get("mode", arguments[1] if len(arguments) > 1 else "r")
        if kind != "open" or set(mode) & set("wxa"):
            calls[0] += 1
            if calls[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    setattr(owner, kind, counted)
    return calls
