#include "core/iommu/record_reader.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/kho/record_chain.h"

namespace perdure {
namespace {

using abi::IommuRecordKind;

std::string_view kind_name(IommuRecordKind kind) {
  return abi::iommu_schema(kind, abi::kIommuReadMax).name;
}

// Who claims a page of memory; no page may have two claims (T7).
struct PageClaim {
  Phys page;
  IommuRecordKind kind = IommuRecordKind::Unit;
  u32 index = 0;
  bool image = false;  // a page of records, which nobody may claim
};

class Reader {
 public:
  Reader(Kho& kho, IncomingModel& model) : kho_(kho), model_(model), claims_(kho.heap()) {}

  Result<void> read(u64 data) {
    TRY(read_header(data));
    TRY(read_chain(IommuRecordKind::Unit, header_.unit_chain, header_.unit_bytes, header_.unit_slots, model_.units));
    TRY(read_chain(IommuRecordKind::Domain, header_.domain_chain, header_.domain_bytes, header_.domain_slots,
                   model_.domains));
    TRY(read_chain(IommuRecordKind::Attachment, header_.attachment_chain, header_.attachment_bytes,
                   header_.attachment_slots, model_.attachments));
    TRY(read_chain(IommuRecordKind::Device, header_.device_chain, header_.device_bytes, header_.device_slots,
                   model_.devices));
    check_units();
    check_domains();
    TRY(check_pages());
    TRY(check_attachments());
    return check_devices();
  }

 private:
  bool readable(u64 at) const { return kho::readable_page(kho_, at); }
  bool covered(u64 at, u64 length) const {
    return at % kPageSize == 0 && kho_.machine().in_window(Phys(at), length) && kho_.incoming_covers(Phys(at), length);
  }

  void report(IommuRecordKind kind, u32 index, std::string_view why) const {
    log(kho_.machine(), LogLevel::Error, Line() << kind_name(kind) << " record " << index << ": refused: " << why);
  }
  template <class Entry>
  void refuse(Entry& entry, IommuRecordKind kind, u32 index, std::string_view why) const {
    if (entry.state != RecordState::Valid) return;
    entry.state = RecordState::Bad;
    report(kind, index, why);
  }

  Result<void> read_header(u64 data) {
    const std::string_view why =
        kho::read_header(kho_, data, abi::kIommuHeaderSchema, std::as_writable_bytes(std::span(&header_, 1)));
    if (!why.empty()) {
      log(kho_.machine(), LogLevel::Error, Line() << "iommu.header at " << Hex{data} << ": " << why);
      return fail(Errno::Eproto);
    }
    model_.data = data;
    model_.generation = header_.generation;
    model_.version = header_.version;
    model_.domain_slots = header_.domain_slots;
    TRY(model_.blocks.push_back(Phys(data)));
    return claims_.push_back({Phys(data), IommuRecordKind::Unit, 0, true});
  }

  // Entries for as far as the chain can be followed.
  template <class Entry>
  Result<void> read_chain(IommuRecordKind kind, u64 first, u64 bytes, u32 slots, Vec<Entry>& out) {
    const abi::ChainFormat format = abi::iommu_chain(kind, header_.version);
    const usize known = model_.blocks.size();
    const std::string_view broken =
        TRY(kho::read_chain(kho_, format, {.first = first, .bytes = bytes, .slots = slots}, header_.generation,
                            model_.blocks, [&](u32 index, std::span<const std::byte> record) -> Result<void> {
                              Entry entry;
                              read_record(kind, index, *format.record, record, entry);
                              return out.push_back(std::move(entry));
                            }));
    for (usize i = known; i < model_.blocks.size(); ++i) TRY(claims_.push_back({model_.blocks[i], kind, 0, true}));
    if (!broken.empty()) {
      log(kho_.machine(), LogLevel::Error,
          Line() << kind_name(kind) << " chain: " << broken << ": records from " << static_cast<u32>(out.size())
                 << " on are lost");
    }
    return {};
  }

  template <class Entry>
  void read_record(IommuRecordKind kind, u32 index, const abi::Schema& schema, std::span<const std::byte> bytes,
                   Entry& entry) {
    bool used = false;
    std::string_view why = kho::read_record(schema, bytes, std::as_writable_bytes(std::span(&entry.record, 1)), used);
    if (!used) return;
    if (why.empty() && entry.record.generation != header_.generation) why = "is of another update";
    if (!why.empty()) report(kind, index, why);
    entry.state = why.empty() ? RecordState::Valid : RecordState::Bad;
  }

  void check_units() {
    Vec<IncomingUnit>& units = model_.units;
    for (u32 i = 0; i < units.size(); ++i) {
      IncomingUnit& u = units[i];
      if (u.state != RecordState::Valid) continue;
      const u64 queue = align_down(u.record.iqa, kPageSize);
      if (!covered(u.record.root, kPageSize)) {
        refuse(u, IommuRecordKind::Unit, i, "its root table is not in preserved memory");
      } else if (u.record.iqa != 0 && !covered(queue, kPageSize << u.record.queue_order)) {
        refuse(u, IommuRecordKind::Unit, i, "its queue is not in preserved memory");
      } else if (u.record.status_page != 0 && !covered(u.record.status_page, kPageSize)) {
        refuse(u, IommuRecordKind::Unit, i, "its status page is not in preserved memory");
      }
      // Few: pairs are fine. Neither of two that claim one unit is believed.
      for (u32 k = 0; k < i; ++k) {
        if (units[k].state == RecordState::Unused || units[k].record.base != u.record.base) continue;
        refuse(units[k], IommuRecordKind::Unit, k, "another record has the same registers");
        refuse(u, IommuRecordKind::Unit, i, "another record has the same registers");
      }
    }
  }

  void check_domains() {
    for (u32 i = 0; i < model_.domains.size(); ++i) {
      IncomingDomain& d = model_.domains[i];
      if (d.state != RecordState::Valid) continue;
      const abi::IommuDomainRecord& r = d.record;
      if (!readable(r.top)) {
        refuse(d, IommuRecordKind::Domain, i, "its top page is not in preserved memory");
      } else if (r.first_descriptor != 0 && !covered(r.first_descriptor, kPageSize)) {
        refuse(d, IommuRecordKind::Domain, i, "its table arena is not in preserved memory");
      } else if ((r.leaf_sizes & kPageSize) == 0 || r.iova_bits > kPageShift + 9 * r.levels) {
        refuse(d, IommuRecordKind::Domain, i, "its shape is impossible");
      } else if (r.flags == abi::kIommuDomainTracks ||
                 (r.flags != 0 && (r.format != static_cast<u32>(pt::FormatId::VtdSecondStage) || r.coherent == 0))) {
        refuse(d, IommuRecordKind::Domain, i, "its table cannot track what is written");
      }
    }
  }

  Result<void> claim(u64 page, u64 length, IommuRecordKind kind, u32 index) {
    for (u64 done = 0; page != 0 && done < length; done += kPageSize) {
      TRY(claims_.push_back({Phys(page + done), kind, index, false}));
    }
    return {};
  }

  Result<void> check_pages() {
    for (u32 i = 0; i < model_.units.size(); ++i) {
      const IncomingUnit& u = model_.units[i];
      if (u.state != RecordState::Valid) continue;
      TRY(claim(u.record.root, kPageSize, IommuRecordKind::Unit, i));
      TRY(claim(align_down(u.record.iqa, kPageSize), kPageSize << u.record.queue_order, IommuRecordKind::Unit, i));
      TRY(claim(u.record.status_page, kPageSize, IommuRecordKind::Unit, i));
    }
    for (u32 i = 0; i < model_.domains.size(); ++i) {
      const IncomingDomain& d = model_.domains[i];
      if (d.state != RecordState::Valid) continue;
      TRY(claim(d.record.top, kPageSize, IommuRecordKind::Domain, i));
      TRY(claim(d.record.first_descriptor, kPageSize, IommuRecordKind::Domain, i));
    }
    std::sort(claims_.begin(), claims_.end(), [](const PageClaim& a, const PageClaim& b) { return a.page < b.page; });
    for (usize i = 1; i < claims_.size(); ++i) {
      if (claims_[i - 1].page != claims_[i].page) continue;
      refuse_claim(claims_[i - 1]);
      refuse_claim(claims_[i]);
    }
    return {};
  }
  void refuse_claim(const PageClaim& c) {
    constexpr std::string_view kWhy = "it names a page that something else has";
    if (c.image) return;
    if (c.kind == IommuRecordKind::Unit) refuse(model_.units[c.index], c.kind, c.index, kWhy);
    if (c.kind == IommuRecordKind::Domain) refuse(model_.domains[c.index], c.kind, c.index, kWhy);
  }

  Result<void> check_attachments() {
    Vec<u32> order(kho_.heap());
    for (u32 i = 0; i < model_.attachments.size(); ++i) {
      IncomingAttachment& a = model_.attachments[i];
      if (a.state != RecordState::Valid) continue;
      if (a.record.unit >= model_.units.size() || a.record.domain >= model_.domains.size()) {
        refuse(a, IommuRecordKind::Attachment, i, "it names a record that is not there");
      } else if (model_.units[a.record.unit].state != RecordState::Valid) {
        refuse(a, IommuRecordKind::Attachment, i, "its unit's record is no good");
      } else if (model_.domains[a.record.domain].state != RecordState::Valid) {
        refuse(a, IommuRecordKind::Attachment, i, "its domain's record is no good");
      } else if (a.record.did >= model_.units[a.record.unit].record.did_limit) {
        refuse(a, IommuRecordKind::Attachment, i, "its DID is beyond what the unit has");  // R01
      } else {
        TRY(order.push_back(i));
      }
    }
    // One id for one domain on one unit.
    std::sort(order.begin(), order.end(), [&](u32 x, u32 y) { return place(x) < place(y); });
    for (usize k = 1; k < order.size(); ++k) {
      if (place(order[k - 1]) != place(order[k])) continue;
      for (u32 i : {order[k - 1], order[k]}) {
        refuse(model_.attachments[i], IommuRecordKind::Attachment, i, "another one is for the same domain and unit");
      }
    }
    return {};
  }
  u64 place(u32 attachment) const {
    const abi::IommuAttachmentRecord& r = model_.attachments[attachment].record;
    return u64{r.unit} << 32 | r.domain;
  }

  Result<void> check_devices() {
    Vec<u32> order(kho_.heap());  // valid attachments by place
    for (u32 i = 0; i < model_.attachments.size(); ++i) {
      if (model_.attachments[i].state == RecordState::Valid) TRY(order.push_back(i));
    }
    std::sort(order.begin(), order.end(), [&](u32 x, u32 y) { return place(x) < place(y); });
    for (u32 i = 0; i < model_.devices.size(); ++i) {
      IncomingDevice& d = model_.devices[i];
      if (d.state != RecordState::Valid) continue;
      const abi::IommuDeviceRecord& r = d.record;
      const u64 key = u64{r.unit} << 32 | r.domain;
      const u32* at = std::lower_bound(order.begin(), order.end(), key, [&](u32 x, u64 k) { return place(x) < k; });
      if (at == order.end() || place(*at) != key) {
        refuse(d, IommuRecordKind::Device, i, "no good record says under which id its domain is on its unit");
        continue;
      }
      d.attachment = *at;
      if (model_.attachments[*at].record.did != r.did) {
        refuse(d, IommuRecordKind::Device, i, "its DID is not its domain's");
      } else if (model_.units[r.unit].record.segment != r.segment) {
        refuse(d, IommuRecordKind::Device, i, "its unit is on another segment");
      } else if (!aliases_sound(r)) {
        refuse(d, IommuRecordKind::Device, i, "its aliases are malformed");
      } else if (model_.domains[r.domain].record.owner_generation != r.owner_generation) {
        refuse(d, IommuRecordKind::Device, i, "its session is not its domain's");
      } else {
        TRY(index_sources(i));
      }
    }
    std::sort(model_.by_source.begin(), model_.by_source.end(),
              [](const auto& a, const auto& b) { return a.source < b.source; });
    for (usize k = 1; k < model_.by_source.size(); ++k) {
      if (model_.by_source[k - 1].source != model_.by_source[k].source) continue;
      for (u32 i : {model_.by_source[k - 1].device, model_.by_source[k].device}) {
        refuse(model_.devices[i], IommuRecordKind::Device, i, "another one has the same requester id");
      }
    }
    refuse_shared_between_owners();
    return {};
  }
  static bool aliases_sound(const abi::IommuDeviceRecord& r) {
    for (u32 i = 0; i < abi::kIommuMaxAliases; ++i) {
      if (i >= r.alias_count) {
        if (r.aliases[i] != 0) return false;
        continue;
      }
      if (r.aliases[i] == r.bdf) return false;
      for (u32 k = 0; k < i; ++k) {
        if (r.aliases[k] == r.aliases[i]) return false;
      }
    }
    return true;
  }
  Result<void> index_sources(u32 index) {
    const IncomingDevice& d = model_.devices[index];
    TRY(model_.by_source.push_back({d.source(), index}));
    for (u32 i = 0; i < d.record.alias_count; ++i) {
      TRY(model_.by_source.push_back({{d.source().segment, d.record.aliases[i]}, index}));
    }
    return {};
  }
  // A domain is one iommufd's: devices of two owners on one would let the one's replace move the other.
  void refuse_shared_between_owners() {
    for (u32 i = 0; i < model_.devices.size(); ++i) {
      const IncomingDevice& d = model_.devices[i];
      if (d.state != RecordState::Valid) continue;
      IncomingDomain& domain = model_.domains[d.record.domain];
      if (domain.devices == 0) {
        domain.devices = i + 1;  // its first device; counted anew when devices are restored
        continue;
      }
      const abi::IommuDeviceRecord& first = model_.devices[domain.devices - 1].record;
      if (first.owner_generation == d.record.owner_generation && first.owner_token == d.record.owner_token) continue;
      refuse(domain, IommuRecordKind::Domain, d.record.domain, "devices of two owners use it");
    }
    for (IncomingDomain& domain : model_.domains) domain.devices = 0;
    for (u32 i = 0; i < model_.devices.size(); ++i) {
      IncomingDevice& d = model_.devices[i];
      if (d.state == RecordState::Valid && model_.domains[d.record.domain].state != RecordState::Valid) {
        refuse(d, IommuRecordKind::Device, i, "its domain's record is no good");
      }
    }
  }

  Kho& kho_;
  IncomingModel& model_;
  abi::IommuHeader header_;
  Vec<PageClaim> claims_;
};

}  // namespace

IncomingDevice* IncomingModel::device_of(SourceId requester) {
  const SourceEntry* at = std::lower_bound(by_source.begin(), by_source.end(), requester,
                                           [](const SourceEntry& e, SourceId s) { return e.source < s; });
  for (; at != by_source.end() && at->source == requester; ++at) {
    const RecordState state = devices[at->device].state;
    if (state == RecordState::Valid || state == RecordState::Restored) return &devices[at->device];
  }
  return nullptr;
}

Result<Owned<IncomingModel>> read_iommu_records(Kho& kho, u64 data) {
  Owned<IncomingModel> model = TRY(kho.heap().make<IncomingModel>(kho.heap()));
  TRY(Reader(kho, *model).read(data));
  return model;
}

}  // namespace perdure
