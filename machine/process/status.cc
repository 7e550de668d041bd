#include "machine/process/status.h"

#include <map>
#include <nlohmann/json.hpp>

#include "machine/process/devices.h"

namespace perdure::process {

namespace {

using nlohmann::json;

class Sessions final : public luo::SessionVisitor {
 public:
  void session(const luo::SessionStatus& s) override {
    all.push_back({{"name", std::string(s.name)},
                   {"state", std::string(progress_name(s.progress))},
                   {"damaged", s.damaged},
                   {"files", json::array()}});
  }
  void file(const luo::FileStatus& f) override {
    json file = {
        {"token", f.token}, {"type", std::string(f.type)}, {"state", std::string(luo::progress_name(f.progress))}};
    if (f.error != Errno{}) file["error"] = std::string(errno_name(f.error));
    all.back()["files"].push_back(std::move(file));
  }
  json all = json::array();
};

// A context's objects; `owners` learns whose each device is.
class Objects final : public iommufd::ContextVisitor {
 public:
  Objects(u64 number, json& domains, std::map<SourceId, u64>& owners)
      : number_(number), domains_(domains), owners_(owners) {}
  void ioas(const iommufd::IoasStatus& s) override {
    ioas_.push_back({{"id", s.id}, {"areas", s.areas}, {"bytes", s.bytes}});
  }
  void hwpt(const iommufd::HwptStatus& s) override {
    json hwpt = {{"id", s.id}, {"automatic", s.automatic}, {"ioas", s.ioas != 0 ? json(s.ioas) : json()}};
    if (s.marked) hwpt["token"] = s.token;
    hwpts_.push_back(std::move(hwpt));
    domains_.push_back(
        {{"context", number_}, {"hwpt", s.id}, {"devices", s.devices}, {"mapped_bytes", s.mapped_bytes}});
  }
  void device(const iommufd::DeviceStatus& s) override {
    devices_.push_back(
        {{"id", s.id}, {"function", function_name(s.source)}, {"hwpt", s.hwpt != 0 ? json(s.hwpt) : json()}});
    owners_[s.source] = number_;
  }
  json take() {
    return {{"number", number_},
            {"ioas", std::move(ioas_)},
            {"hwpts", std::move(hwpts_)},
            {"devices", std::move(devices_)}};
  }

 private:
  u64 number_;
  json& domains_;
  std::map<SourceId, u64>& owners_;
  json ioas_ = json::array(), hwpts_ = json::array(), devices_ = json::array();
};

std::string_view ownership_name(Ownership ownership) {
  switch (ownership) {
    case Ownership::Unowned: return "unowned";
    case Ownership::HeldForSession: return "held";
    case Ownership::Owned: return "owned";
    case Ownership::Quarantined: return "quarantined";
  }
  return "?";
}

}  // namespace

std::string status_json(Kernel& kernel) {
  const FrameAllocator::Totals totals = kernel.frames().totals();
  const Kho::Extent outgoing = kernel.kho().outgoing_extent();
  Sessions sessions;
  kernel.luo().describe(sessions);
  json status = {
      {"release", std::string(kernel.config().release)},
      {"former_release", std::string(kernel.former_release())},
      {"hop", kernel.boot_info().hop},
      {"update", kernel.luo().incoming_number()},
      {"sessions", std::move(sessions.all)},
      {"contexts", json::array()},
      {"domains", json::array()},
      {"devices", json::array()},
      {"preserved", {{"blocks", outgoing.blocks}, {"bytes", outgoing.bytes}, {"tree_pages", outgoing.tree_pages}}},
      {"memory",
       {{"frames", totals.frames},
        {"free", totals.free},
        {"kept", totals.kept},
        {"heap_bytes", kernel.heap().bytes_in_use()}}},
      {"timeline", json::array()}};
  std::map<SourceId, u64> owners;
  kernel.iommufd().each_context([&](const iommufd::IommufdFile& context) {
    Objects objects(context.number(), status["domains"], owners);
    context.describe(objects);
    status["contexts"].push_back(objects.take());
  });
  kernel.iommu().each_device([&](IommuDevice& device) {
    const pci::Function* const function = kernel.bus().find(device.source());
    if (function && !function->enabled()) return;  // a virtual one that is not there
    const auto owner = owners.find(device.source());
    const vfio::PciDevice* const drivable = kernel.vfio().find(device.source());
    status["devices"].push_back({{"function", function_name(device.source())},
                                 {"vfio", drivable ? json(drivable->index) : json()},
                                 {"group", device.group().id()},
                                 {"ownership", std::string(ownership_name(device.group().ownership()))},
                                 {"owner", owner != owners.end() ? json(owner->second) : json()},
                                 {"preserved", device.preserved()}});
  });
  for (const PhaseTime& p : kernel.timeline().phases()) {
    status["timeline"].push_back(
        {{"phase", std::string(phase_name(p.phase))}, {"begin_ns", p.begin_ns}, {"end_ns", p.end_ns}});
  }
  // Names are whatever bytes a program chose, or a former kernel's image says: none may end this kernel.
  return status.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace perdure::process
