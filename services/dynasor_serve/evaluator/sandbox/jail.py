"""`python -m dynasor_serve.evaluator.sandbox.jail PARENT_PID PLAN`: runs one program behind walls.

Started by `isolation` and by nobody else. Two processes: the warden, which leaves the service's namespaces, starts the
second one in the new ones, kills it on SIGTERM, and says in the end how it ended; and the inmate, which builds the
walls around itself and becomes `python PROGRAM`. Standard input and output are the program's; the warden adds one line
of JSON to what the program has written, when nobody else is left to write: `{"status", "cpu_seconds"}`, or `{"missing",
"remedy"}` where a wall cannot be built, and then the program has not run.

A user who is not root enters a user namespace first, since only there may she do the rest. Root does the rest and then
becomes nobody in a user namespace: the kernel limits the number of processes of everybody but root.

Only the standard library is used, and of it what loads quickly.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from dynasor_serve.evaluator.parent_death import die_with
from dynasor_serve.evaluator.sandbox import linux, seccomp
from dynasor_serve.evaluator.sandbox.linux import Namespace

_NOBODY = 65534
_REPORT = 1
_STAGE = "/tmp"  # noqa: S108 any directory will do: a new file system is mounted over it, for this process only
_OLD_ROOT = "/old"
_WORK = "/work"
_PROGRAM = "/program.py"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/urandom")
_ROOT_BYTES = 4 << 20  # of the root file system: names and the program
_MOST_FILES = 1024
_STACK_BYTES = 8 << 20  # as is usual; threads get as much each
_LOWER_PRIORITY = 10  # what keeps a core busy should not keep the service waiting

_ALLOW_NAMESPACES = (
    "allow it to create namespaces: in a container by a seccomp profile that permits unshare, mount, pivot_root and "
    "mount_setattr; on the machine by user.max_user_namespaces > 0 and, where there are such settings, "
    "kernel.unprivileged_userns_clone = 1 and kernel.apparmor_restrict_unprivileged_userns = 0"
)
_RUN_UNPRIVILEGED = "run it as a user who is not root, or as a root with CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID"


class _Missing(Exception):
    """A wall that cannot be built."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def main() -> None:
    """Run the program of the plan and say how it ended."""
    parent, plan = int(sys.argv[1]), json.loads(sys.argv[2])
    try:
        ended = _guard(parent, plan)
    except _Missing as missing:
        ended = {"missing": str(missing), "remedy": missing.remedy}
    os.write(_REPORT, b"\n" + json.dumps(ended).encode())


def _guard(parent: int, plan: dict[str, Any]) -> dict[str, Any]:
    """The warden: start the inmate and wait for its end."""
    is_root = os.geteuid() == 0
    if not is_root:
        with _wall("a user namespace", _ALLOW_NAMESPACES):
            _enter_user_namespace()
    with _wall("namespaces", f"{_RUN_UNPRIVILEGED}, and {_ALLOW_NAMESPACES}" if is_root else _ALLOW_NAMESPACES):
        linux.unshare(Namespace.MOUNTS | Namespace.PROCESSES | Namespace.NETWORK | Namespace.IPC | Namespace.HOST_NAME)
    die_with(parent)
    hears, tells = os.pipe()  # closed by the exec that makes the inmate the program
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    inmate = os.fork()
    if not inmate:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.close(hears)
        _become(plan, tells, is_root)
    # Who kills the inmate also waits for it: a service that is process 1 of a container waits for nobody it has not
    # started.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(inmate, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(tells)
    os.close(sys.stdin.fileno())  # so that it breaks when the program has gone
    with os.fdopen(hears, "rb") as words:
        complaint = words.read()
    _, status, usage = os.wait4(inmate, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is nobody left to kill
    if complaint:
        raise _Missing(**json.loads(complaint))
    return {"status": status, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def _enter_user_namespace() -> None:
    """Become nobody in a namespace of one's own, with all capabilities there until the next exec."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(Namespace.USERS)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1", encoding="ascii")


def _become(plan: dict[str, Any], tells: int, is_root: bool) -> NoReturn:
    """The inmate: build the walls, then be the program."""
    try:
        # Not that of a virtual environment, which is a link or would look for its home.
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        with _wall("a root file system of its own", _ALLOW_NAMESPACES):
            _move_house(plan, python)
        if is_root:
            with _wall("the user nobody", _RUN_UNPRIVILEGED):
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            with _wall("a user namespace", _ALLOW_NAMESPACES):
                linux.unshare(Namespace.USERS)
        with _wall("limits", "raise the limits (ulimit) that the evaluator itself runs under"):
            _limit(plan)
        with _wall("a filter of system calls", "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"):
            instructions = seccomp.filter_for(os.uname().machine)
            linux.give_up_new_privileges()
            linux.die_with_parent()
            if not linux.has_reader(tells):  # the warden ended before that took effect
                os._exit(1)
            linux.install_filter(instructions)
        with _wall(f"Python at {python}", "make the interpreter and its libraries readable and executable for all"):
            # Isolated and without site: the standard library, and neither this package nor those it stands on.
            command = [python, "-I", "-S", "-B", "-X", "utf8", _PROGRAM]
            os.execve(python, command, _environment())  # noqa: S606 - it is what this module is for
    except _Missing as missing:
        os.write(tells, json.dumps({"what": str(missing), "remedy": missing.remedy}).encode())
    except Exception as error:  # noqa: BLE001 - a forked process has nobody else to tell
        os.write(tells, json.dumps({"what": repr(error), "remedy": "report it: this is a defect"}).encode())
    finally:
        os._exit(1)


def _move_house(plan: dict[str, Any], python: str) -> None:
    """Exchange all files for a root that holds Python, the program and an empty directory to work in."""
    program = Path(plan["program"]).read_bytes()
    visible = [(path, os.path.realpath(path)) for path in _visible(python)]
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    options = f"size={_ROOT_BYTES},nr_inodes={_MOST_FILES},mode=0755"
    linux.mount("tmpfs", _STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    Path(_STAGE + _OLD_ROOT).mkdir()
    linux.pivot_root(_STAGE, _STAGE + _OLD_ROOT)
    os.chdir("/")
    for path, source in visible:
        _show(path, _OLD_ROOT + source, may_hold_devices=path in _DEVICES)
    Path(_WORK).mkdir()
    # Writable for the one user there is, by the ids of the namespace or those of the machine.
    options = f"size={plan['file_bytes']},nr_inodes={_MOST_FILES},mode=0700,uid={_NOBODY},gid={_NOBODY}"
    linux.mount("tmpfs", _WORK, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    Path(_PROGRAM).write_bytes(program)
    Path(_PROGRAM).chmod(0o444)
    linux.detach(_OLD_ROOT)
    Path(_OLD_ROOT).rmdir()
    os.chdir(_WORK)
    nowhere = os.open("/dev/null", os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    linux.make_read_only("/", recursive=False)


def _visible(python: str) -> list[str]:
    """What of the machine's files the program sees, each with all that is below it; none is below another."""
    home = (f"{sys.base_prefix}/lib", f"{sys.base_prefix}/{sys.platlibdir}")
    wanted = (*_LIBRARIES, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), *home, python, *_DEVICES)
    visible: list[str] = []
    for path in sorted(wanted, key=len):  # what is above comes before what is below
        is_new = not any(Path(path).is_relative_to(above) for above in visible)
        if is_new and Path(path).is_absolute() and Path(path).exists():
            visible.append(path)
    return visible


def _show(path: str, source: str, *, may_hold_devices: bool) -> None:
    target = Path(path)
    if Path(source).is_dir():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(source, path, flags=linux.MS_BIND | linux.MS_REC)
    linux.make_read_only(path, may_hold_devices=may_hold_devices)


def _limit(plan: dict[str, Any]) -> None:
    os.nice(_LOWER_PRIORITY)
    for what, amount in (
        (resource.RLIMIT_AS, plan["memory_bytes"]),
        (resource.RLIMIT_CPU, plan["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, plan["file_bytes"]),
        (resource.RLIMIT_NOFILE, plan["open_files"]),
        (resource.RLIMIT_NPROC, plan["threads"]),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, most = resource.getrlimit(what)
        bounded = amount if most == resource.RLIM_INFINITY else min(amount, most)
        resource.setrlimit(what, (bounded, bounded))


def _environment() -> dict[str, str]:
    """Nothing, but where the interpreter itself would not start without it."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


@contextmanager
def _wall(what: str, remedy: str) -> Iterator[None]:
    """Say which wall is missing where the kernel refuses to build it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _Missing(f"{what} ({error})", remedy) from error


if __name__ == "__main__":
    main()
