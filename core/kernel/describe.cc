// See HandoverVisitor.
#include "core/kernel/kernel.h"

namespace perdure {

namespace {

Result<void> describe_domain(const iommufd::HwptPaging& hwpt, const iommufd::HwptAudit& areas,
                             HandoverVisitor& visitor) {
  const pt::IoPageTable& table = hwpt.domain().table();
  DomainDescription domain{.token = hwpt.token,
                           .geometry = table.geometry(),
                           .top = table.top(),
                           .table_pages = 0,
                           .mapped_bytes = hwpt.domain().mapped_bytes()};
  const auto count = [&](Phys, unsigned) -> Result<void> {
    ++domain.table_pages;
    return {};
  };
  TRY(table.each_table(count));
  visitor.domain(domain);
  for (const auto& run : areas.runs()) visitor.run(run.iova, run.phys, run.length, run.access);
  const auto block = [&](Phys base, unsigned order) -> Result<void> {
    visitor.tables(base, kPageSize << order);
    return {};
  };
  return table.each_block(block);
}

}  // namespace

Result<void> Kernel::describe_handover(HandoverVisitor& visitor) {
  luo_->describe(visitor);
  iommu_->each_unit([&](IommuUnit& unit) {
    if (unit.preserved()) visitor.unit(unit.info());
  });
  TRY(iommufd_handler_->each_preserved([&](iommufd::IommufdFile& file) -> Result<void> {
    Result<void> told;
    file.each_preserved([&](const iommufd::HwptPaging& hwpt, const iommufd::HwptAudit& areas) {
      if (told) told = describe_domain(hwpt, areas, visitor);
    });
    return told;
  }));
  iommu_->each_device([&](IommuDevice& device) {
    const Ref<PagingDomain> domain = device.group().domain();
    if (!device.preserved() || !domain) return;
    visitor.device({.source = device.source(),
                    .unit = device.unit().info().base,
                    .did = domain->did_on(device.unit()),
                    .top = domain->table().top()});
  });
  return {};
}

}  // namespace perdure
