"""The filter of system calls, run by an interpreter of classic BPF: what the kernel would answer, on either machine."""

from __future__ import annotations

import errno
import struct

import pytest

from dynasor_serve.evaluator.sandbox.seccomp import UnknownMachine, filter_for

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE_THREAD, CLONE_NEWUSER, SIGCHLD = 0x10000, 0x10000000, 17
ALLOWED = 0


def answer(machine: str, number: int, first_argument: int = 0, architecture: int | None = None) -> int | str:
    """0 where the call is allowed, its errno where it fails, `killed` where the process is."""
    data = struct.pack("=iIQ6Q", number, architecture or ARCHITECTURES[machine], 0, first_argument, 0, 0, 0, 0, 0)
    program = [*struct.iter_unpack("=HBBI", filter_for(machine))]
    accumulator, position = 0, 0
    while True:
        code, jump_true, jump_false, operand = program[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                position += jump_true if accumulator == operand else jump_false
            case 0x25:
                position += jump_true if accumulator > operand else jump_false
            case 0x45:
                position += jump_true if accumulator & operand else jump_false
            case 0x06:
                return "killed" if operand == 0x80000000 else operand & 0xFFFF
            case _:
                raise AssertionError(f"instruction {code:#x} is not one that the filter needs")


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64", "expected"),
    [
        ("read", 0, 63, ALLOWED),
        ("mmap", 9, 222, ALLOWED),
        ("execve", 59, 221, ALLOWED),
        ("futex", 202, 98, ALLOWED),
        ("getrandom", 318, 278, ALLOWED),
        ("socketpair", 53, 199, ALLOWED),  # asyncio wakes itself by one
        ("socket", 41, 198, errno.EPERM),
        ("ptrace", 101, 117, errno.EPERM),
        ("unshare", 272, 97, errno.EPERM),
        ("setns", 308, 268, errno.EPERM),
        ("mount", 165, 40, errno.EPERM),
        ("bpf", 321, 280, errno.EPERM),
        ("keyctl", 250, 219, errno.EPERM),
        ("memfd_create", 319, 279, errno.EPERM),
        ("io_uring_setup", 425, 425, errno.EPERM),
        ("clone3", 435, 435, errno.ENOSYS),
        ("a later one", 463, 463, errno.ENOSYS),
        ("no call at all", -1, -1, errno.ENOSYS),
    ],
)
def test_calls(name: str, x86_64: int, aarch64: int, expected: int) -> None:
    assert answer("x86_64", x86_64) == expected
    assert answer("aarch64", aarch64) == expected


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_threads_are_allowed_and_processes_are_not(machine: str, clone: int) -> None:
    assert answer(machine, clone, CLONE_THREAD) == ALLOWED
    assert answer(machine, clone, SIGCHLD) == errno.EPERM
    assert answer(machine, clone, SIGCHLD | CLONE_NEWUSER) == errno.EPERM


def test_fork_has_numbers_of_its_own_on_one_machine() -> None:
    assert (answer("x86_64", 57), answer("x86_64", 58)) == (errno.EPERM, errno.EPERM)
    assert (answer("aarch64", 57), answer("aarch64", 58)) == (ALLOWED, ALLOWED), "close and vhangup"


def test_calls_by_another_convention_end_the_process() -> None:
    assert answer("x86_64", 11, architecture=0x40000003) == "killed", "32-bit calls have other numbers"
    assert answer("x86_64", 0x40000000 | 41) == errno.ENOSYS, "so have those of x32"


def test_a_machine_without_a_list_is_refused() -> None:
    with pytest.raises(UnknownMachine, match="for riscv64; there are lists for x86_64, aarch64"):
        filter_for("riscv64")
