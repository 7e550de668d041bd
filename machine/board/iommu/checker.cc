#include "machine/board/iommu/checker.h"

#include <cstdio>

namespace perdure::board {

const char* violation_name(ViolationKind kind) {
  switch (kind) {
    case ViolationKind::BadWidth: return "register access of the wrong width";
    case ViolationKind::UnknownRegister: return "access to a register that does not exist";
    case ViolationKind::ReadOnlyWrite: return "write to a read-only register";
    case ViolationKind::GcmdManyBits: return "GCMD write changes more than one bit";
    case ViolationKind::GcmdNoChange: return "GCMD write changes nothing";
    case ViolationKind::GcmdWhilePending: return "GCMD write while a command is pending";
    case ViolationKind::GcmdUnsupported: return "GCMD bit that CAP/ECAP do not offer";
    case ViolationKind::TeWithoutRoot: return "TE set before SRTP";
    case ViolationKind::TtmWhileEnabled: return "translation mode changed while TES=1";
    case ViolationKind::BadTtm: return "reserved or unsupported translation mode";
    case ViolationKind::RootNotRam: return "root table outside RAM";
    case ViolationKind::EventWhileUnmasked: return "event message programmed while IM=0";
    case ViolationKind::RegisterInvalidationWhileQueued: return "register-based invalidation while QIES=1";
    case ViolationKind::BadRegisterInvalidation: return "bad register-based invalidation";
    case ViolationKind::IqaWhileEnabled: return "IQA written while QIES=1";
    case ViolationKind::IqaNotRam: return "invalidation queue outside RAM";
    case ViolationKind::IqtAtEnable: return "IQT not 0 when the queue is enabled";
    case ViolationKind::QiDisableBusy: return "queue disabled while descriptors are outstanding";
    case ViolationKind::QiDisableAfterWork: return "queue disabled and its last descriptor was no wait";
    case ViolationKind::QueueError: return "invalidation queue error";
    case ViolationKind::WaitStatusAndEvent: return "wait descriptor with both SW and IF";
    case ViolationKind::WaitStatusNotRam: return "wait status address outside RAM";
    case ViolationKind::BadFlushAddress: return "page-selective flush not aligned to its size";
    case ViolationKind::IrtaNotRam: return "interrupt remapping table outside RAM";
    case ViolationKind::IreWithoutTable: return "IRE set before SIRTP";
    case ViolationKind::InterruptRemapDropped: return "IRE dropped while TES=1";
    case ViolationKind::InterruptTableNotFlushed: return "interrupt table changed and its entries not flushed";
    case ViolationKind::ReservedBits: return "reserved bits in an entry";
    case ViolationKind::TableNotRam: return "table pointer outside RAM";
    case ViolationKind::TableNotUsable: return "use of a frame that is freed or was not preserved";
    case ViolationKind::Poison: return "poison read as an entry";
    case ViolationKind::NotWrittenBack: return "entry read that was never written back";
    case ViolationKind::DidShared: return "two page tables under one domain id";
    case ViolationKind::DidStaleHit: return "stale translation of another page table under this domain id";
    case ViolationKind::DidReserved: return "domain id 0 with caching mode";
    case ViolationKind::Count: break;
  }
  return "unknown violation";
}

std::string Violation::to_string() const {
  char line[200];
  std::snprintf(line, sizeof line, "%s: at 0x%llx, value 0x%llx, source %02x:%02x.%x, %llu ns", violation_name(kind),
                static_cast<unsigned long long>(where), static_cast<unsigned long long>(detail), unsigned{source} >> 8,
                (unsigned{source} >> 3) & 0x1F, unsigned{source} & 7, static_cast<unsigned long long>(when_ns));
  return line;
}

void Checker::note(ViolationKind kind, u64 where, u64 detail, u16 source) {
  ++counts_[static_cast<usize>(kind)];
  ++total_;
  if (list_.size() < kKept) list_.push_back({kind, where, detail, source, environment_.now_ns()});
}

void Checker::clear() {
  list_.clear();
  counts_ = {};
  total_ = 0;
}

}  // namespace perdure::board
