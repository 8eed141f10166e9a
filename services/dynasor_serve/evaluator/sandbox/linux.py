"""The system calls that walls are made of. Python has them from 3.12 on, or not at all.

Every function raises `OSError` where the kernel refuses, with the call's name.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
from enum import IntFlag

# linux/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
_MNT_DETACH = 0x2
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR_NOSUID = 0x2
_MOUNT_ATTR_NODEV = 0x4
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_SYS_MOUNT_SETATTR = 442  # of every architecture; glibc has had no function for it before 2.36

# linux/prctl.h, linux/seccomp.h
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2


class Namespace(IntFlag):
    """linux/sched.h"""

    MOUNTS = 0x00020000
    HOST_NAME = 0x04000000
    IPC = 0x08000000
    USERS = 0x10000000
    PROCESSES = 0x20000000
    NETWORK = 0x40000000


class _FilterProgram(ctypes.Structure):
    """linux/filter.h, struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def unshare(namespaces: Namespace) -> None:
    """Leave these namespaces for new ones; of `PROCESSES` only children will be members."""
    _call("unshare", int(namespaces))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)"""
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def make_read_only(target: str, *, may_hold_devices: bool = False, recursive: bool = True) -> None:
    """Make a mount, and those below it, read-only and without set-user-id programs and devices (Linux 5.12)."""
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | (0 if may_hold_devices else _MOUNT_ATTR_NODEV)
    change = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _call(
        "syscall",
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_long(_AT_FDCWD),
        target.encode(),
        ctypes.c_long(_AT_RECURSIVE if recursive else 0),
        change,
        ctypes.c_long(len(change)),
        name="mount_setattr",
    )


def pivot_root(new_root: str, put_old: str) -> None:
    """Make a mount the root directory, and find the old root below it."""
    _call("pivot_root", new_root.encode(), put_old.encode())


def detach(target: str) -> None:
    """Unmount all that is mounted at or below a directory; what is open there stays usable."""
    _call("umount2", target.encode(), _MNT_DETACH)


def give_up_new_privileges() -> None:
    """From here on no exec gives this process more than it has."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    A change of credentials undoes it, entering a user namespace included: call it after those.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def has_reader(pipe: int) -> bool:
    """Whether anybody still holds the reading end of a pipe whose writing end this is."""
    poll = select.poll()
    poll.register(pipe, 0)  # errors are reported whatever is asked for
    return not poll.poll(0)


def install_filter(instructions: bytes) -> None:
    """Filter this process's system calls, for good. The process must have given up new privileges.

    Args:
        instructions: classic BPF, eight bytes each.
    """
    program = _FilterProgram(len(instructions) // 8, instructions)
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0, name="prctl(PR_SET_SECCOMP)")


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, ctypes.c_ulong(value), 0, 0, 0)


def _call(function: str, *arguments: object, name: str = "") -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name or function}: {os.strerror(error)}")
