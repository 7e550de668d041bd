// Between a kernel process and the board process: one socket, which is all that a kernel is started with.
#pragma once
#include "core/base/types.h"

namespace perdure::process {

// The kernel's end is this descriptor.
inline constexpr int kBoardSocket = 3;

// Kernel → board; each is answered by one message with the same op, `result` 0 or an Errno.
enum class BoardOp : u32 {
  // → a: boot information, b: log2 of the window, c: board clock minus CLOCK_MONOTONIC, payload: paths (below); then
  // one Ram, Mailbox, InterruptPage and Interrupts message, a Bank message each, an End
  Hello = 1,
  Ram,         // → payload: RamPiece[], descriptor
  Mailbox,     // → descriptor
  Interrupts,  // → descriptor: a socket on which Interrupt says that there is something in the interrupt page
  Bank,        // → payload: Bank, descriptor
  End,
  BankAttach,     // a: offset, b: length, descriptor → payload: Bank
  MoveMemoryBar,  // a: address, b: offset, descriptor
  BankDetach,     // payload: Bank
  Ready,          // payload: release; the kernel serves programs now
  Prepare,        // a: where BootInfo will lie, payload: BootInfo: the jump comes next
  Cancel,         // it did not
  Interrupt,      // (board → kernel, on the interrupt socket)
  InterruptPage,  // → descriptor
  RemoteAttach,   // payload: RemoteBank, descriptor: its process's /proc/<pid>/mem → payload: Bank
};

struct RemoteBank {
  u64 process = 0;  // the kernel's number for it
  u64 pid = 0;
  u64 address = 0;
  u64 length = 0;
  u64 host_id = 0;
};

// What Hello's payload says, as text lines: the directory of the kernel binaries, the programs' socket, and the kernel
// that comes next when nobody says which.
struct Places {
  static constexpr char kSeparator = '\n';
};

// Register accesses that are none: the mailbox's width 0 writes back [address, address + value).
inline constexpr u32 kWriteBackWidth = 0;

}  // namespace perdure::process
