#include "core/iommu/outgoing_records.h"

#include <cstring>

#include "core/base/log.h"

namespace perdure {

OutgoingRecords::OutgoingRecords(Kho& k, u32 v)
    : kho(k),
      version(v),
      unit_chain(k, abi::iommu_chain(abi::IommuRecordKind::Unit, v)),
      domain_chain(k, abi::iommu_chain(abi::IommuRecordKind::Domain, v)),
      attachment_chain(k, abi::iommu_chain(abi::IommuRecordKind::Attachment, v)),
      device_chain(k, abi::iommu_chain(abi::IommuRecordKind::Device, v)),
      units(k.heap()),
      domains(k.heap()),
      attachments(k.heap()),
      devices(k.heap()) {}

OutgoingRecords::~OutgoingRecords() {
  if (header) kho.unpreserve_free(header, sizeof(abi::IommuHeader));
}

Result<void> OutgoingRecords::write_domain(u32 index) {
  const Domain& d = domains[index];
  pt::IoPageTable& table = d.domain->table();
  table.arena().seal();
  const pt::Geometry& g = d.domain->geometry();
  abi::IommuDomainRecord r;
  r.in_use = 1;
  r.generation = generation;
  r.owner_generation = d.owner_generation;
  r.top = table.top().value;
  r.first_descriptor = table.arena().first_descriptor().value;
  r.leaf_sizes = g.leaf_sizes;
  r.format = static_cast<u32>(g.format);
  r.levels = g.levels;
  r.iova_bits = g.iova_bits;
  r.output_bits = g.output_bits;
  r.coherent = g.coherent ? 1 : 0;
  r.flags = d.domain->can_track_dirty() ? abi::kIommuDomainCanTrack : 0;
  if (d.domain->tracks_dirty()) r.flags |= abi::kIommuDomainTracks;
  r.mapped_bytes = d.domain->mapped_bytes_known() ? d.domain->mapped_bytes() : abi::kIommuMappedUnknown;
  r.table_pages = table.arena().pages_in_use();
  domain_chain.write(index, r);
  return {};
}

Result<void> OutgoingRecords::write_attachment(u32 index) {
  const Attachment& a = attachments[index];
  abi::IommuAttachmentRecord r;
  r.in_use = 1;
  r.generation = generation;
  r.domain = a.domain;
  r.unit = a.unit;
  r.did = domains[a.domain].domain->did_on(*units[a.unit].unit);
  if (r.did < kFirstDynamicDid) {
    log(kho.machine(), LogLevel::Error, Line() << "iommu: a preserved domain is no longer on its unit");
    return fail(Errno::Eio);
  }
  attachment_chain.write(index, r);
  return {};
}

Result<void> OutgoingRecords::write_device(u32 index, const BusMasterSwitch* bus_master) {
  const Device& d = devices[index];
  const SourceId source = d.device->source();
  // Since preserve, attach and detach are refused; only quarantine can have taken the device away.
  if (d.device->group().ownership() == Ownership::Quarantined ||
      d.device->group().domain() != domains[d.domain].domain) {
    log(kho.machine(), LogLevel::Error,
        Line() << "iommu: " << Hex{source.bdf} << " was quarantined after it was preserved: unpreserve it");
    return fail(Errno::Eio);
  }
  abi::IommuDeviceRecord r;
  r.in_use = 1;
  r.generation = generation;
  r.segment = source.segment;
  r.bdf = source.bdf;
  r.unit = d.unit;
  r.domain = d.domain;
  r.did = domains[d.domain].domain->did_on(*units[d.unit].unit);
  r.owner_generation = d.owner_generation;
  r.owner_token = d.owner_token;
  r.flags = bus_master && bus_master->is_on(source) ? abi::kIommuDeviceBusMaster : 0;
  for (SourceId alias : d.device->aliases().subspan(1)) r.aliases[r.alias_count++] = alias.bdf;
  device_chain.write(index, r);
  return {};
}

void OutgoingRecords::seal_units() {
  for (u32 i = 0; i < units.size(); ++i) {
    if (!unit_chain.used(i)) continue;
    abi::IommuUnitRecord r;
    units[i].unit->fill_record(r);
    r.in_use = 1;
    r.generation = generation;
    unit_chain.write(i, r);
  }
}

void OutgoingRecords::write_header() {
  unit_chain.seal(generation);
  domain_chain.seal(generation);
  attachment_chain.seal(generation);
  device_chain.seal(generation);
  abi::IommuHeader h;
  h.magic = abi::kIommuMagic;
  h.version = version;
  h.generation = generation;
  h.unit_chain = unit_chain.first().value;
  h.domain_chain = domain_chain.first().value;
  h.attachment_chain = attachment_chain.first().value;
  h.device_chain = device_chain.first().value;
  h.unit_bytes = unit_chain.bytes();
  h.domain_bytes = domain_chain.bytes();
  h.attachment_bytes = attachment_chain.bytes();
  h.device_bytes = device_chain.bytes();
  h.unit_slots = unit_chain.slots();
  h.domain_slots = domain_chain.slots();
  h.attachment_slots = attachment_chain.slots();
  h.device_slots = device_chain.slots();
  std::byte* at = kho.machine().virt(header);
  std::memcpy(at, &h, sizeof h);
  abi::seal(abi::kIommuHeaderSchema, {at, sizeof h});
}

Result<void> OutgoingRecords::seal(BusMasterSwitch* bus_master) {
  for (u32 i = 0; i < domains.size(); ++i) {
    if (domain_chain.used(i)) TRY(write_domain(i));
  }
  for (u32 i = 0; i < attachments.size(); ++i) {
    if (attachment_chain.used(i)) TRY(write_attachment(i));
  }
  for (u32 i = 0; i < devices.size(); ++i) {
    if (device_chain.used(i)) TRY(write_device(i, bus_master));
  }
  seal_units();
  write_header();
  return {};
}

}  // namespace perdure
