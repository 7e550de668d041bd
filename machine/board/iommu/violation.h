// What software did to the unit that no correct driver does. Hardware would go on with undefined or surprising
// behaviour; the model goes on, too, and keeps a list.
#pragma once
#include <string>

#include "core/base/types.h"

namespace perdure::board {

enum class ViolationKind : u8 {
  // registers
  BadWidth,         // access with another width than the register's
  UnknownRegister,  // no register there, or none with these capabilities
  ReadOnlyWrite,
  GcmdManyBits,                     // more than one bit changed by one write of GCMD
  GcmdNoChange,                     // a write of GCMD that asks for nothing
  GcmdWhilePending,                 // the command before is not complete yet
  GcmdUnsupported,                  // a bit that the capabilities do not offer
  TeWithoutRoot,                    // TE = 1 before any SRTP
  TtmWhileEnabled,                  // SRTP that changes the translation mode with TES = 1
  BadTtm,                           // reserved or unsupported mode
  RootNotRam,                       // SRTP with a root table outside RAM
  EventWhileUnmasked,               // DATA/ADDR/UADDR of an event written with IM = 0
  RegisterInvalidationWhileQueued,  // CCMD or IOTLB used with QIES = 1
  BadRegisterInvalidation,          // CCMD/IOTLB with a reserved granularity, or another one still running
  // queue
  IqaWhileEnabled,     // IQA written with QIES = 1
  IqaNotRam,           // a queue outside RAM
  IqtAtEnable,         // IQT not 0 when the queue is enabled
  QiDisableBusy,       // disabled with descriptors or waits outstanding
  QiDisableAfterWork,  // disabled although the last descriptor was no wait
  QueueError,          // IQE: `detail` is the code
  WaitStatusAndEvent,  // SW and IF in one wait (QEMU aborts)
  WaitStatusNotRam,    // a wait writes its status outside RAM
  BadFlushAddress,     // a page-selective flush not aligned to its size
  IrtaNotRam,
  // interrupt remapping
  IreWithoutTable,           // IRE = 1 before any SIRTP
  InterruptRemapDropped,     // IRE = 0 while TES = 1: messages of devices at work pass unchecked
  InterruptTableNotFlushed,  // SIRTP with IRES = 1, and the next batch ended without a global flush of entries
  // tables
  ReservedBits,    // in an entry: `detail` is the word
  TableNotRam,     // a table pointer that leads outside RAM
  TableNotUsable,  // PhysMemory::may_use said no: freed, or not preserved
  Poison,          // the poison pattern was read as an entry or a descriptor
  NotWrittenBack,  // a line the walker needs was never written back (non-coherent walks)
  DidShared,       // two page tables or widths under one domain id
  DidStaleHit,     // a cached translation of another page table under this domain id gave another result
  DidReserved,     // domain id 0 with caching mode
  Count,
};

const char* violation_name(ViolationKind kind);

struct Violation {
  ViolationKind kind{};
  u64 where = 0;   // register offset, physical address, or IOVA
  u64 detail = 0;  // the value at fault
  u16 source = 0;  // requester, where there is one
  u64 when_ns = 0;

  std::string to_string() const;
};

}  // namespace perdure::board
