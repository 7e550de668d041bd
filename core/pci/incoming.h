// What a former kernel recorded of functions at work and of the bridges above them, copied out of the image and
// validated: the only form in which the rest of the core sees it.
#pragma once
#include "core/abi/pci.h"
#include "core/kho/record_chain.h"
#include "core/pci/source_id.h"

namespace perdure::pci {

enum class RecordState : u8 {
  Unused,
  Bad,    // refused; the log says why
  Valid,  // sound by itself and together with the records that it refers to
  Found,  // what is there is as recorded
};

struct IncomingFunction {
  RecordState state = RecordState::Unused;
  abi::PciFunctionRecord record;
  SourceId source() const { return {static_cast<u16>(record.segment), static_cast<u16>(record.bdf)}; }
};

struct IncomingBridge {
  RecordState state = RecordState::Unused;
  abi::PciBridgeRecord record;
  u32 below = 0;         // valid records of functions
  bool differs = false;  // the bridge that is there: whatever is below it may be anything
  SourceId source() const { return {static_cast<u16>(record.segment), static_cast<u16>(record.bdf)}; }
};

class IncomingRecords : public HeapObject {
 public:
  explicit IncomingRecords(Heap& heap) : pages(heap), functions(heap), bridges(heap) {}

  // Records with a sound checksum for this requester id, believed or not; null: none.
  IncomingFunction* function_at(SourceId source);
  IncomingBridge* bridge_at(SourceId source);

  u64 data = 0;  // LUO's value: where the header lies
  u32 version = 0;
  u64 generation = 0;
  Vec<Phys> pages;  // of the image, to be given back
  Vec<IncomingFunction> functions;
  Vec<IncomingBridge> bridges;
};

// `data` is LUO's value. Eproto: the header is no good, so nothing is known. Whatever else is damaged costs only the
// records that it makes unprovable. Enomem.
Result<Owned<IncomingRecords>> read_pci_records(Kho& kho, u64 data);

}  // namespace perdure::pci
