"""Run a command to which the kernel refuses some system calls, as container runtimes do to what they do not know.

``python restricted.py CALL,CALL COMMAND...``: the calls fail with EPERM (seccomp(2)). Linux on x86-64 and AArch64.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# arch/x86/entry/syscalls/syscall_64.tbl, and include/uapi/asm-generic/unistd.h for AArch64.
NUMBERS = {
    "memfd_create": {"x86_64": 319, "aarch64": 279},
    "pidfd_send_signal": {"x86_64": 424, "aarch64": 424},
    "pidfd_open": {"x86_64": 434, "aarch64": 434},
    "close_range": {"x86_64": 436, "aarch64": 436},
}
_LOAD_NUMBER, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def refuse(calls: list[str]) -> None:
    """Have these calls fail in this process and all that it becomes or starts."""
    numbers = [NUMBERS[call][platform.machine()] for call in calls]
    program = [struct.pack("HBBI", _LOAD_NUMBER, 0, 0, 0)]
    for number in numbers:
        program += [
            struct.pack("HBBI", _JUMP_EQUAL, 0, 1, number),
            struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | errno.EPERM),
        ]
    program.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    described = struct.pack("HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, described, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    refuse(sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])
