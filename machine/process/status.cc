#include "machine/process/status.h"

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
      {"devices", json::array()},
      {"preserved", {{"blocks", outgoing.blocks}, {"bytes", outgoing.bytes}, {"tree_pages", outgoing.tree_pages}}},
      {"memory",
       {{"frames", totals.frames},
        {"free", totals.free},
        {"kept", totals.kept},
        {"heap_bytes", kernel.heap().bytes_in_use()}}},
      {"timeline", json::array()}};
  kernel.iommu().each_device([&](IommuDevice& device) {
    status["devices"].push_back({{"function", function_name(device.source())},
                                 {"ownership", std::string(ownership_name(device.group().ownership()))},
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
