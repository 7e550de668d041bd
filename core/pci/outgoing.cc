#include "core/pci/outgoing.h"

#include <cstring>

#include "core/abi/pci.h"
#include "core/base/log.h"
#include "core/base/scope_guard.h"

namespace perdure::pci {

using abi::PciRecordKind;

OutgoingFunctions::OutgoingFunctions(Kho& kho, u32 version)
    : kho_(kho),
      version_(version),
      function_chain_(kho, abi::pci_chain(PciRecordKind::Function, version)),
      bridge_chain_(kho, abi::pci_chain(PciRecordKind::Bridge, version)),
      functions_(kho.heap()),
      bridges_(kho.heap()) {}

OutgoingFunctions::~OutgoingFunctions() {
  if (header) kho_.unpreserve_free(header, sizeof(abi::PciHeader));
}

u32 OutgoingFunctions::slot_of(const Vec<Slot>& slots, const Function& function) {
  for (u32 i = 0; i < slots.size(); ++i) {
    if (slots[i].function == &function) return i;
  }
  return abi::kPciNoBridge;
}

bool OutgoingFunctions::has(const Function& function) const {
  return slot_of(function.is_bridge() ? bridges_ : functions_, function) != abi::kPciNoBridge;
}

Result<void> OutgoingFunctions::add(Function& function) {
  const u32 index = TRY(kho::add_slot(function_chain_, functions_));
  functions_[index].function = &function;
  Function* done = nullptr;  // the uppermost bridge that counts it
  ScopeGuard undo([&] {
    kho::remove_slot(function_chain_, functions_, index);
    for (Function* bridge = done ? function.parent() : nullptr; bridge; bridge = bridge->parent()) {
      drop_bridge(*bridge);
      if (bridge == done) break;
    }
  });
  for (Function* bridge = function.parent(); bridge; bridge = bridge->parent()) {
    TRY(add_bridge(*bridge));
    done = bridge;
  }
  undo.dismiss();
  return {};
}

void OutgoingFunctions::remove(Function& function) {
  const u32 index = slot_of(functions_, function);
  PERDURE_ASSERT(index != abi::kPciNoBridge);
  kho::remove_slot(function_chain_, functions_, index);
  for (Function* bridge = function.parent(); bridge; bridge = bridge->parent()) drop_bridge(*bridge);
}

Result<void> OutgoingFunctions::add_bridge(Function& bridge) {
  u32 index = slot_of(bridges_, bridge);
  if (index == abi::kPciNoBridge) {
    index = TRY(kho::add_slot(bridge_chain_, bridges_));
    bridges_[index].function = &bridge;
  }
  ++bridges_[index].below;
  return {};
}

void OutgoingFunctions::drop_bridge(Function& bridge) {
  const u32 index = slot_of(bridges_, bridge);
  PERDURE_ASSERT(index != abi::kPciNoBridge);
  if (--bridges_[index].below == 0) kho::remove_slot(bridge_chain_, bridges_, index);
}

// --- freezing -----------------------------------------------------------------------------------------------------

Result<void> OutgoingFunctions::differs(const Function& function, std::string_view what) const {
  log(kho_.machine(), LogLevel::Error,
      Line() << "pci: " << Hex{function.source().segment} << ":" << Hex{function.source().bdf} << " " << what
             << ": unpreserve what is there");
  return fail(Errno::Eio);
}

// What both kinds of record say.
template <class Record>
Record OutgoingFunctions::begin_record(const Function& function) const {
  Record r;
  r.in_use = 1;
  r.generation = generation;
  r.segment = function.source().segment;
  r.bdf = function.source().bdf;
  r.ids = function.ids();
  r.class_revision = function.class_revision();
  r.bridge = function.parent() ? slot_of(bridges_, *function.parent()) : abi::kPciNoBridge;
  r.command = function.read16(reg::kCommand);
  return r;
}

Result<void> OutgoingFunctions::write_function(u32 index) {
  const Function& f = *functions_[index].function;
  if (!f.same_as_found()) return differs(f, "is not the function that was preserved");
  abi::PciFunctionRecord r = begin_record<abi::PciFunctionRecord>(f);
  r.flags = f.ari() ? abi::kPciFunctionAri : 0;
  for (unsigned i = 0; i < Function::kBars; ++i) {
    const Bar& bar = f.bars()[i];
    if (bar.size == 0) continue;
    if (f.bar_base(i) != bar.base) return differs(f, "decodes at other addresses than it did");
    r.bar_address[i] = bar.base.value;
    r.bar_size[i] = bar.size;
  }
  r.subsystem = f.read32(reg::kSubsystem);
  function_chain_.write(index, r);
  return {};
}

Result<void> OutgoingFunctions::write_bridge(u32 index) {
  const Function& b = *bridges_[index].function;
  if (!b.same_as_found()) return differs(b, "is not the bridge above a preserved function");
  abi::PciBridgeRecord r = begin_record<abi::PciBridgeRecord>(b);
  r.functions = bridges_[index].below;
  r.bridge_control = b.read16(reg::kBridgeControl);
  r.primary = b.read8(reg::kPrimaryBus);
  r.secondary = b.read8(reg::kSecondaryBus);
  r.subordinate = b.read8(reg::kSubordinateBus);
  if (r.primary != b.source().bus() || r.secondary != b.secondary() || r.subordinate != b.subordinate()) {
    return differs(b, "has other bus numbers than it was found with");
  }
  r.flags = b.ari_forwarding() ? abi::kPciBridgeAriForwarding : 0;
  const BridgeWindows w = b.windows();
  r.memory_base = w.memory.base;
  r.memory_limit = w.memory.limit;
  r.prefetch_base = w.prefetch.base;
  r.prefetch_limit = w.prefetch.limit;
  r.io_base = w.io.base;
  r.io_limit = w.io.limit;
  bridge_chain_.write(index, r);
  return {};
}

Result<void> OutgoingFunctions::seal() {
  for (u32 i = 0; i < functions_.size(); ++i) {
    if (function_chain_.used(i)) TRY(write_function(i));
  }
  for (u32 i = 0; i < bridges_.size(); ++i) {
    if (bridge_chain_.used(i)) TRY(write_bridge(i));
  }
  function_chain_.seal(generation);
  bridge_chain_.seal(generation);
  abi::PciHeader h;
  h.magic = abi::kPciMagic;
  h.version = version_;
  h.generation = generation;
  h.function_chain = function_chain_.first().value;
  h.bridge_chain = bridge_chain_.first().value;
  h.function_bytes = function_chain_.bytes();
  h.bridge_bytes = bridge_chain_.bytes();
  h.function_slots = function_chain_.slots();
  h.bridge_slots = bridge_chain_.slots();
  std::byte* const at = kho_.machine().virt(header);
  std::memcpy(at, &h, sizeof h);
  abi::seal(abi::kPciHeaderSchema, {at, sizeof h});
  return {};
}

}  // namespace perdure::pci
