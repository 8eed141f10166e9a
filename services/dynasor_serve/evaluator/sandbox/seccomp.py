"""Which system calls a jailed program may make, as a filter for the kernel.

Everything is allowed but what is named here and what is newer than this list. A list of what is allowed instead would
have to follow every release of Python and of two C libraries; what an unprivileged process without capabilities,
sockets, children and namespaces gains from the calls left is its own memory, its files and its clock. The rest of the
attack surface is what is cut off: see `_FORBIDDEN`.

Neither pyseccomp nor libseccomp is used: the filter is a hundred instructions, and a wheel cannot bring the library.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from types import MappingProxyType

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_JUMP_SET = 0x45
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_FAIL = 0x00050000  # with an errno in the lower half
# Offsets in struct seccomp_data. Both architectures are little-endian: the lower half of an argument comes first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

_CLONE_THREAD = 0x00010000
_CLONE3 = 435
# The newest call that this list knows (mseal, Linux 6.10). A program is told that the kernel has no later ones.
_NEWEST = 462

# name -> number (x86_64, aarch64); None where the architecture has no such call. Numbers from 424 on are the same.
_FORBIDDEN: Mapping[str, tuple[int | None, int | None]] = MappingProxyType(
    {
        # New processes: each would have a limit of memory to itself.
        "fork": (57, None),
        "vfork": (58, None),
        # Other networks than that of the namespace are reached by sockets too (vsock), and much of the kernel is.
        "socket": (41, 198),
        # Namespaces and mounts: capabilities within them open the rest of the kernel.
        "unshare": (272, 97),
        "setns": (308, 268),
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "open_tree": (428, 428),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        # Other processes, by tracing, memory or descriptor.
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "kcmp": (312, 272),
        "pidfd_open": (434, 434),
        "pidfd_getfd": (438, 438),
        # Memory that no limit of the process counts, and that outlives what mapped it.
        "memfd_create": (319, 279),
        "memfd_secret": (447, 447),
        "shmget": (29, 194),
        "semget": (64, 190),
        "msgget": (68, 186),
        "mq_open": (240, 180),
        # Interfaces that an unprivileged process may use and needs for nothing, with a long record of defects.
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "fanotify_init": (300, 262),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
        "modify_ldt": (154, None),
        "personality": (135, 92),
        # Files by handle pass by the directories above them; the kernel's log shows addresses.
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
        "syslog": (103, 116),
    }
)
# os.uname().machine -> (its number in linux/audit.h, its column above, its clone)
_MACHINES = MappingProxyType({"x86_64": (0xC000003E, 0, 56), "aarch64": (0xC00000B7, 1, 220)})


class UnknownMachine(ValueError):
    """There is no list of system calls for this kind of machine."""


def filter_for(machine: str) -> bytes:
    """Return the filter for a machine, as `os.uname().machine` names it: classic BPF, eight bytes an instruction.

    Raises:
        UnknownMachine: it is neither x86_64 nor aarch64.
    """
    if machine not in _MACHINES:
        raise UnknownMachine(f"no list of system calls for {machine}; there are lists for {', '.join(_MACHINES)}")
    architecture, column, clone = _MACHINES[machine]
    forbidden = [numbers[column] for numbers in _FORBIDDEN.values()]
    return b"".join(
        [
            _instruction(_LOAD, _ARCHITECTURE),
            _instruction(_JUMP_EQUAL, architecture, jump_true=1),
            _instruction(_RETURN, _KILL_PROCESS),
            _instruction(_LOAD, _NUMBER),
            # Later calls, and those of x32, whose numbers have a bit of their own.
            *_answer_if(_JUMP_GREATER, _NEWEST, _FAIL | errno.ENOSYS),
            # Its flags are behind a pointer that a filter cannot follow; C libraries fall back to clone.
            *_answer_if(_JUMP_EQUAL, _CLONE3, _FAIL | errno.ENOSYS),
            *(
                instruction
                for number in forbidden
                if number is not None
                for instruction in _answer_if(_JUMP_EQUAL, number, _FAIL | errno.EPERM)
            ),
            _instruction(_JUMP_EQUAL, clone, jump_false=3),
            _instruction(_LOAD, _FIRST_ARGUMENT),
            _instruction(_JUMP_SET, _CLONE_THREAD, jump_true=1),
            _instruction(_RETURN, _FAIL | errno.EPERM),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _answer_if(test: int, number: int, answer: int) -> tuple[bytes, bytes]:
    return _instruction(test, number, jump_false=1), _instruction(_RETURN, answer)


def _instruction(code: int, operand: int, *, jump_true: int = 0, jump_false: int = 0) -> bytes:
    """linux/filter.h, struct sock_filter; jumps count the instructions that are skipped."""
    return struct.pack("=HBBI", code, jump_true, jump_false, operand)
