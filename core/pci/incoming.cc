#include "core/pci/incoming.h"

#include "core/base/log.h"

namespace perdure::pci {
namespace {

using abi::PciRecordKind;

class Reader {
 public:
  Reader(Kho& kho, IncomingRecords& records) : kho_(kho), records_(records) {}

  Result<void> read(u64 data) {
    TRY(read_header(data));
    TRY(read_chain(PciRecordKind::Bridge, header_.bridge_chain, header_.bridge_bytes, header_.bridge_slots,
                   records_.bridges));
    TRY(read_chain(PciRecordKind::Function, header_.function_chain, header_.function_bytes, header_.function_slots,
                   records_.functions));
    for (u32 i = 0; i < records_.bridges.size(); ++i) check_bridge(i);
    for (u32 i = 0; i < records_.bridges.size(); ++i) check_bridge_place(i);
    check_bridges_apart();
    pass_down();
    for (u32 i = 0; i < records_.functions.size(); ++i) check_function(i);
    check_functions_apart();
    check_counts();
    return {};
  }

 private:
  static std::string_view kind_name(PciRecordKind kind) { return abi::pci_schema(kind, abi::kPciReadMax).name; }
  void report(PciRecordKind kind, u32 index, std::string_view why) const {
    log(kho_.machine(), LogLevel::Error, Line() << kind_name(kind) << " record " << index << ": refused: " << why);
  }
  void refuse(IncomingBridge& b, u32 index, std::string_view why) const {
    if (b.state != RecordState::Valid) return;
    b.state = RecordState::Bad;
    report(PciRecordKind::Bridge, index, why);
  }
  void refuse(IncomingFunction& f, u32 index, std::string_view why) const {
    if (f.state != RecordState::Valid) return;
    f.state = RecordState::Bad;
    report(PciRecordKind::Function, index, why);
  }

  Result<void> read_header(u64 data) {
    const std::string_view why =
        kho::read_header(kho_, data, abi::kPciHeaderSchema, std::as_writable_bytes(std::span(&header_, 1)));
    if (!why.empty()) {
      log(kho_.machine(), LogLevel::Error,
          Line() << "pci.header at " << Hex{data} << ": " << why << "; functions that were preserved are stopped");
      return fail(Errno::Eproto);
    }
    records_.data = data;
    records_.version = header_.version;
    records_.generation = header_.generation;
    return records_.pages.push_back(Phys(data));
  }

  template <class Entry>
  Result<void> read_chain(PciRecordKind kind, u64 first, u64 bytes, u32 slots, Vec<Entry>& out) {
    const abi::ChainFormat format = abi::pci_chain(kind, header_.version);
    const std::string_view broken =
        TRY(kho::read_chain(kho_, format, {.first = first, .bytes = bytes, .slots = slots}, header_.generation,
                            records_.pages, [&](u32 index, std::span<const std::byte> record) -> Result<void> {
                              Entry entry;
                              bool used = false;
                              std::string_view why = kho::read_record(
                                  *format.record, record, std::as_writable_bytes(std::span(&entry.record, 1)), used);
                              if (used && why.empty() && entry.record.generation != header_.generation) {
                                entry = {};
                                why = "is of another update";
                              }
                              if (!why.empty()) report(kind, index, why);
                              if (used) entry.state = why.empty() ? RecordState::Valid : RecordState::Bad;
                              return out.push_back(entry);
                            }));
    if (broken.empty()) return {};
    log(kho_.machine(), LogLevel::Error,
        Line() << kind_name(kind) << " chain: " << broken << ": records from " << static_cast<u32>(out.size())
               << " on are lost");
    return {};
  }

  // By itself.
  void check_bridge(u32 index) {
    IncomingBridge& b = records_.bridges[index];
    if (b.state != RecordState::Valid) return;
    const abi::PciBridgeRecord& r = b.record;
    if (r.primary != b.source().bus() || r.secondary <= r.primary || r.subordinate < r.secondary) {
      refuse(b, index, "its bus numbers cannot be");
    }
  }
  // Numbers only grow on the way down, so that no set of records leads in a circle.
  void check_bridge_place(u32 index) {
    IncomingBridge& b = records_.bridges[index];
    if (b.state != RecordState::Valid || b.record.bridge == abi::kPciNoBridge) return;
    if (b.record.bridge >= records_.bridges.size()) return refuse(b, index, "the bridge above it has no record");
    const IncomingBridge& above = records_.bridges[b.record.bridge];
    if (above.state != RecordState::Valid) return;  // see pass_down()
    if (above.record.segment != b.record.segment || b.record.primary != above.record.secondary ||
        b.record.subordinate > above.record.subordinate) {
      refuse(b, index, "it does not fit below the bridge above it");
    }
  }
  // Of two that claim one id or one number neither is believed.
  void check_bridges_apart() {
    for (u32 i = 0; i < records_.bridges.size(); ++i) {
      for (u32 k = 0; k < i; ++k) {
        IncomingBridge& a = records_.bridges[i];
        IncomingBridge& b = records_.bridges[k];
        if (a.state == RecordState::Unused || b.state == RecordState::Unused) continue;
        if (a.record.segment != b.record.segment) continue;
        const bool apart = a.record.subordinate < b.record.secondary || b.record.subordinate < a.record.secondary;
        const bool nested = contains(a, b) || contains(b, a);
        if (a.record.bdf != b.record.bdf && (apart || nested)) continue;
        refuse(a, i, "another bridge has its place");
        refuse(b, k, "another bridge has its place");
      }
    }
  }
  static bool contains(const IncomingBridge& upper, const IncomingBridge& lower) {
    return upper.record.secondary <= lower.record.primary && lower.record.subordinate <= upper.record.subordinate;
  }
  // What is below a bridge that is not believed cannot be, either. As often as bridges can be nested.
  void pass_down() {
    for (bool again = true; again;) {
      again = false;
      for (u32 i = 0; i < records_.bridges.size(); ++i) {
        IncomingBridge& b = records_.bridges[i];
        if (b.state != RecordState::Valid || b.record.bridge == abi::kPciNoBridge) continue;
        if (records_.bridges[b.record.bridge].state == RecordState::Valid) continue;
        refuse(b, i, "the record of the bridge above it is no good");
        again = true;
      }
    }
  }

  void check_function(u32 index) {
    IncomingFunction& f = records_.functions[index];
    if (f.state != RecordState::Valid) return;
    const abi::PciFunctionRecord& r = f.record;
    if (r.bridge != abi::kPciNoBridge) {
      if (r.bridge >= records_.bridges.size()) return refuse(f, index, "the bridge above it has no record");
      const IncomingBridge& above = records_.bridges[r.bridge];
      if (above.state != RecordState::Valid) return refuse(f, index, "the record of the bridge above it is no good");
      if (above.record.segment != r.segment || above.record.secondary != f.source().bus()) {
        return refuse(f, index, "it is not on the bus of the bridge above it");
      }
      const bool forwards = (above.record.flags & abi::kPciBridgeAriForwarding) != 0;
      if ((r.flags & abi::kPciFunctionAri) != 0 && !forwards) {
        return refuse(f, index, "its port does not forward ARI");
      }
    } else if (r.flags != 0) {
      return refuse(f, index, "there is no port that could forward ARI");
    }
    for (unsigned i = 0; i < 6; ++i) {
      const u64 size = r.bar_size[i];
      const bool good = size == 0
                            ? r.bar_address[i] == 0
                            : is_pow2(size) && r.bar_address[i] % size == 0 && !range_overflows(r.bar_address[i], size);
      if (!good) return refuse(f, index, "it has a BAR that cannot be");
    }
  }
  void check_functions_apart() {
    for (u32 i = 0; i < records_.functions.size(); ++i) {
      for (u32 k = 0; k < i; ++k) {
        IncomingFunction& a = records_.functions[i];
        IncomingFunction& b = records_.functions[k];
        if (a.state == RecordState::Unused || b.state == RecordState::Unused || a.source() != b.source()) continue;
        refuse(a, i, "another one has the same requester id");
        refuse(b, k, "another one has the same requester id");
      }
    }
  }
  // A bridge that counted fewer than there are was not above all of them. More: a record was lost. Once up from each
  // function, so that no set of records takes long: bridges above valid functions are sound, and at most 255 deep.
  void check_counts() {
    for (const IncomingFunction& f : records_.functions) {
      if (f.state != RecordState::Valid) continue;
      for (u32 at = f.record.bridge; at != abi::kPciNoBridge; at = records_.bridges[at].record.bridge) {
        ++records_.bridges[at].below;
      }
    }
    for (u32 i = 0; i < records_.bridges.size(); ++i) {
      IncomingBridge& bridge = records_.bridges[i];
      if (bridge.below > bridge.record.functions) refuse(bridge, i, "more functions are below it than it counted");
    }
    pass_down();
    for (u32 i = 0; i < records_.functions.size(); ++i) {
      IncomingFunction& f = records_.functions[i];
      if (f.state != RecordState::Valid || f.record.bridge == abi::kPciNoBridge) continue;
      if (records_.bridges[f.record.bridge].state == RecordState::Valid) continue;
      refuse(f, i, "the record of a bridge above it is no good");
    }
  }

  Kho& kho_;
  IncomingRecords& records_;
  abi::PciHeader header_;
};

}  // namespace

// A record whose checksum is wrong is all zero here, and generation 0 is nobody's.
IncomingFunction* IncomingRecords::function_at(SourceId source) {
  for (IncomingFunction& f : functions) {
    if (f.record.generation != 0 && f.source() == source) return &f;
  }
  return nullptr;
}

IncomingBridge* IncomingRecords::bridge_at(SourceId source) {
  for (IncomingBridge& b : bridges) {
    if (b.record.generation != 0 && b.source() == source) return &b;
  }
  return nullptr;
}

Result<Owned<IncomingRecords>> read_pci_records(Kho& kho, u64 data) {
  Owned<IncomingRecords> records = TRY(kho.heap().make<IncomingRecords>(kho.heap()));
  TRY(Reader(kho, *records).read(data));
  return records;
}

}  // namespace perdure::pci
