// System calls over the wire, between a kernel process and its front ends: programs that know of it (wire/program.h),
// and supervisors that serve programs which do not.
//
// A connection carries one call at a time. Its front end sends the call and then answers the kernel's questions until
// the result comes. A front is what shares one table of handles: the connections of one supervisor, one for each of its
// threads. A connection whose first message is not Call::Front is a front of its own. When the last connection of a
// front goes, its handles are closed in the order of their numbers, as a dying process's are.
//
// Header::task says on whose behalf: the thread that made the system call, (tgid << 32) | tid on the host. The kernel
// process reads and writes that program's memory directly where the host allows it; with task 0 it asks.
#pragma once
#include "core/base/types.h"

namespace perdure::wire {

enum class Call : u32 {
  Open = 1,   // payload: path, b: O_* flags → a: handle, payload: the name of the file's type
  Close,      // a: handle. The last close: whoever else uses the file inside the kernel goes on
  Ioctl,      // a: handle, b: cmd, c: argument → a: value
  Read,       // a: handle, b: bytes, c: position, d: address in the program → a: bytes
  Write,      // the same
  KexecLoad,  // payload: kernel name or path
  Kexec,      // the kernel goes; a result comes only when that failed
  Status,     // a: offset → a: bytes in all, payload: JSON text of the kernel's state, as it was at offset 0
  Front,      // a: 0, or the front to join → a: the front. First message of a connection only. Enoent
  Events,     // this connection is the front's event channel from now on; no call is made on it any more. Ebusy
  Poll,       // a: handle → a: events (POLLIN 1, POLLOUT 4)
  Mmap,  // a: handle, b: length, c: offset, d: prot | (flags << 32) → a: Mapping, b: physical address, c: bytes. What
         // native mmap could not answer has been checked
  RegionRead,   // a: handle, b: 1, 2, 4 or 8 bytes, c: position → a: value. A trapped access
  RegionWrite,  // a: handle, b: bytes, c: position, d: value
  Devices,      // a: offset → as Status: JSON text of what sysfs shows of the machine's functions; b: 1 when a next
                // kernel is loaded
  SysfsWrite,   // payload: path, NUL, text: a program wrote that to an attribute
  TaskExit,     // task: its process is gone
  Lend,         // a: Lent, with a descriptor: what is needed for Serve (wire/lent_turn.h)
  Serve,        // payload: LentFile and LentThread, b and c of them. The kernel receives system calls itself, until it
          // gives the turn back → a: calls that it answered, payload: LeftCall, or nothing. Its questions have the
          // call's id in d
  TaskMemory,  // task → a: pages that /proc/PID/status shows as VmPin, b: as VmLck beyond what the host counts
};

enum class Mapping : u64 { Registers, Memory };

enum class Question : u32 {
  Result = 100,  // head.result, values, payload
  CopyIn,        // a: address, b: bytes → Answer with payload, or result Efault
  CopyOut,       // a: address, payload
  Descriptor,  // a: fd → Answer, a: handle of the file of ours that it is, or kNoHandle with the host descriptor; Ebadf
  Resolve,     // a: address, b: bytes left, c: Access → Answer, b: bytes of the first piece, c: Piece; Efault: nothing
               // is there, or nothing that may be accessed so, or a mapping of one of our own files
  OwnMapping,  // a: address, c: Access → Answer, a: handle of the file of ours that is mapped there, b: bytes that go
               // on in the same mapping, c: offset in the file; Efault: none is
  MayInstall,  // → Answer; Emfile: as many files are open as RLIMIT_NOFILE allows
  Install,     // a: placeholder, b: handle, c: flags (kCloseOnExec), payload: the name of the file's type; or b:
               // kNoHandle with a host descriptor → Answer, a: the number it has in the program; Emfile
  Watch,       // somebody calls again, after a time in which nobody did (wire/lent_turn.h)
  Answer = 200,  // head.result: 0 or an Errno
};

// What Resolve found.
enum class Piece : u64 {
  Shared,  // of a shared memory file: descriptor, a: offset in the file
  Remote,  // private to the process, or nothing that could be opened: accessed in the process, at its address.
           // descriptor: none, or /proc/<tgid>/mem opened for reading and writing, for where the kernel process may not
};

// Kernel → supervisor, on the event channel. Each is answered by an Answer.
enum class Event : u32 {
  Reboot =
      300,  // Everything is frozen, the next kernel comes: the supervisor forgets its handles, ends its programs as
            // a reboot ends user space, and answers when they are gone. kRebootTimeoutMs later nobody waits any more
};

// Registers that the program maps could not be trapped.
inline constexpr u64 kNoRegisters = 1;
inline constexpr u64 kNoHandle = ~u64{0};
inline constexpr u64 kCloseOnExec = 1;
inline constexpr int kRebootTimeoutMs = 5000;

constexpr u64 task_of(u32 tgid, u32 tid) {
  return u64{tgid} << 32 | tid;
}
constexpr u32 tgid_of(u64 task) {
  return static_cast<u32>(task >> 32);
}
constexpr u32 tid_of(u64 task) {
  return static_cast<u32>(task);
}

}  // namespace perdure::wire
