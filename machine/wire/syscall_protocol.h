// System calls over the wire. The program sends one call and then serves the kernel's questions (memory, descriptors)
// until the result comes: the kernel reads no other process's memory and needs no privilege.
#pragma once
#include "core/base/types.h"

namespace perdure::wire {

enum class Call : u32 {
  Open = 1,   // payload: path → a: fd
  Close,      // a: fd
  Ioctl,      // a: fd, b: cmd, c: argument address → a: value
  Read,       // a: fd, b: bytes, c: position → payload
  Write,      // a: fd, c: position, payload → a: bytes
  KexecLoad,  // payload: kernel name
  Kexec,      // the kernel goes; a result comes only when that failed
  Status,     // a: offset → a: bytes in all, payload: JSON text of the kernel's state, as it was at offset 0
};

enum class Question : u32 {
  Result = 100,  // head.result, a: value, payload: data read
  CopyIn,        // a: address, b: bytes → Answer with payload, or result Efault
  CopyOut,       // a: address, payload
  Descriptor,    // a: fd → Answer with the host descriptor, or Ebadf
  Resolve,       // a: address, b: bytes left, c: access → Answer: host descriptor, a: offset, b: bytes
  InstallHost,   // a: kernel fd number, with the host descriptor behind it; no answer
  Answer = 200,
};

}  // namespace perdure::wire
