// The records of one update while the former kernel still runs: which function and which bridge has which slot.
#pragma once
#include "core/kho/record_chain.h"
#include "core/pci/function.h"

namespace perdure::pci {

class OutgoingFunctions : public HeapObject {
 public:
  OutgoingFunctions(Kho& kho, u32 version);
  ~OutgoingFunctions() override;

  // See LiveUpdate.
  Result<void> add(Function& function);
  void remove(Function& function);
  bool has(const Function& function) const;
  bool empty() const { return function_chain_.in_use() == 0 && bridge_chain_.in_use() == 0; }
  // Writes every record, with what the registers say now, and the header. Allocates nothing. Eio.
  Result<void> seal();

  u64 generation = 0;
  Phys header;

 private:
  struct Slot {
    Function* function = nullptr;
    u32 below = 0;  // of a bridge: preserved functions
  };
  static u32 slot_of(const Vec<Slot>& slots, const Function& function);  // kPciNoBridge: none
  Result<void> add_bridge(Function& bridge);
  void drop_bridge(Function& bridge);
  template <class Record>
  Record begin_record(const Function& function) const;
  Result<void> write_function(u32 index);
  Result<void> write_bridge(u32 index);
  Result<void> differs(const Function& function, std::string_view what) const;

  Kho& kho_;
  const u32 version_;
  kho::RecordChain function_chain_;
  kho::RecordChain bridge_chain_;
  Vec<Slot> functions_;
  Vec<Slot> bridges_;
};

}  // namespace perdure::pci
