#!/usr/bin/env python3
"""session.py keep TEXT | session.py fetch: a text in a memfd that outlives the kernel, with nothing but fcntl.ioctl.

`keep` puts it into a session of /dev/liveupdate and waits for the update; `fetch`, under the next kernel, prints it.
"""
import errno
import fcntl
import os
import signal
import struct
import sys

CREATE_SESSION, RETRIEVE_SESSION = 0xBA00, 0xBA01
PRESERVE_FD, RETRIEVE_FD, FINISH = 0xBA40, 0xBA41, 0xBA42
SESSION = struct.Struct("=Ii64s")  # size, fd (out), name
FD = struct.Struct("=IiQ")  # size, fd, token
DONE = struct.Struct("=II")  # size, reserved

NAME, TOKEN = b"session.py", 1


def call(fd: int, number: int, layout: struct.Struct, *fields) -> tuple:
    """The structure as the kernel leaves it; the first field is its size."""
    argument = bytearray(layout.pack(layout.size, *fields))
    fcntl.ioctl(fd, number, argument)
    return layout.unpack(argument)


def keep(text: str) -> None:
    memory = os.memfd_create("text", os.MFD_CLOEXEC)
    os.write(memory, text.encode())
    device = os.open("/dev/liveupdate", os.O_RDWR)
    _, session, _ = call(device, CREATE_SESSION, SESSION, -1, NAME)
    os.close(device)
    call(session, PRESERVE_FD, FD, memory, TOKEN)
    print("kept until the next kernel asks for it", flush=True)
    while True:  # a session lives as long as somebody holds it
        signal.pause()


def fetch() -> int:
    device = os.open("/dev/liveupdate", os.O_RDWR)
    try:
        _, session, _ = call(device, RETRIEVE_SESSION, SESSION, -1, NAME)
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise
        print("nobody kept anything", file=sys.stderr)
        return 1
    _, memory, _ = call(session, RETRIEVE_FD, FD, -1, TOKEN)
    os.lseek(memory, 0, os.SEEK_SET)
    print(os.read(memory, os.fstat(memory).st_size).decode())
    call(session, FINISH, DONE, 0)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "keep":
        keep(sys.argv[2])
    if len(sys.argv) == 2 and sys.argv[1] == "fetch":
        sys.exit(fetch())
    sys.exit(__doc__)
