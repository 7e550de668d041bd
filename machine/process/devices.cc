#include "machine/process/devices.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "machine/process/drivers.h"

namespace perdure::process {

namespace {

using nlohmann::json;

// IORESOURCE_* as the "resource" attribute shows them.
struct Resource {
  static constexpr u64 kIo = 0x100;
  static constexpr u64 kMemory = 0x200;
  static constexpr u64 kPrefetch = 0x2000;
  static constexpr u64 kSizeAlign = 0x40000;
  static constexpr u64 kMemory64 = 0x100000;
};

// Single Root I/O Virtualization capability (PCI Express Base 6.0, §9.3.3).
struct SrIov {
  static constexpr u16 kNumVfs = 0x10;
  static constexpr u16 kFirstVf = 0x14;
  static constexpr u16 kVfStride = 0x16;
};

json bars_of(const pci::Function& function) {
  json bars = json::array();
  for (const pci::Bar& bar : function.bars()) {
    if (bar.kind == pci::Bar::Kind::None || bar.size == 0) {
      bars.push_back({{"base", 0}, {"size", 0}, {"flags", 0}});
      continue;
    }
    const u64 low = function.read32(static_cast<u16>(pci::reg::kBars + 4 * bars.size()));
    const u64 flags = bar.kind == pci::Bar::Kind::Io
                          ? Resource::kIo | (low & pci::BarBits::kIoFlags)
                          : Resource::kMemory | (bar.prefetchable ? Resource::kPrefetch : 0) |
                                (bar.wide ? Resource::kMemory64 : 0) | (low & pci::BarBits::kMemoryFlags);
    bars.push_back({{"base", function.bar_base(static_cast<unsigned>(bars.size())).value},
                    {"size", bar.size},
                    {"flags", flags | Resource::kSizeAlign}});
  }
  return bars;
}

std::vector<SourceId> virtual_functions(const pci::Function& physical, u16 at) {
  std::vector<SourceId> all;
  const u32 count = physical.read16(static_cast<u16>(at + SrIov::kNumVfs));
  const u32 first = physical.read16(static_cast<u16>(at + SrIov::kFirstVf));
  const u32 stride = physical.read16(static_cast<u16>(at + SrIov::kVfStride));
  for (u32 i = 0; i < count; ++i) {
    const u32 bdf = physical.source().bdf + first + i * stride;
    if (bdf > 0xffff) break;  // the device makes these numbers up
    all.push_back({physical.source().segment, static_cast<u16>(bdf)});
  }
  return all;
}

}  // namespace

std::string function_name(SourceId source) {
  char name[16];
  std::snprintf(name, sizeof name, "%04x:%02x:%02x.%u", unsigned{source.segment}, unsigned{source.bus()},
                unsigned{source.device()}, unsigned{source.function()});
  return name;
}

std::optional<Attribute> attribute_of(std::string_view path) {
  const usize name = path.rfind('/');
  if (name == std::string_view::npos || name == 0) return std::nullopt;
  const usize above = path.rfind('/', name - 1);
  if (above == std::string_view::npos) return std::nullopt;
  const auto function = function_of(path.substr(above + 1, name - above - 1));
  if (!function) return std::nullopt;
  return Attribute{*function, path.substr(name + 1)};
}

std::optional<SourceId> function_of(std::string_view name) {
  constexpr usize kName = 12;  // "0000:00:00.0"
  const std::string text(name);
  unsigned segment = 0, bus = 0, device = 0, function = 0;
  int end = 0;
  if (text.size() != kName ||
      std::sscanf(text.c_str(), "%4x:%2x:%2x.%1x%n", &segment, &bus, &device, &function, &end) != 4 ||
      end != static_cast<int>(kName) || device > 31 || function > 7) {
    return std::nullopt;
  }
  return SourceId::of(static_cast<u16>(segment), static_cast<u8>(bus), static_cast<u8>(device),
                      static_cast<u8>(function));
}

Result<u32> sysfs_number(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  const std::string digits(text);
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return fail(Errno::Einval);
  char* end = nullptr;
  errno = 0;
  const unsigned long value = std::strtoul(digits.c_str(), &end, 0);
  if (end != digits.c_str() + digits.size()) return fail(Errno::Einval);
  if (errno == ERANGE || value > 0xFFFF) return fail(Errno::Erange);
  return static_cast<u32>(value);
}

std::string devices_json(Kernel& kernel, const Drivers& drivers) {
  pci::Bus& bus = kernel.bus();
  std::map<SourceId, SourceId> physical;  // by virtual function
  std::map<SourceId, json> sriov;
  for (usize i = 0; i < bus.size(); ++i) {
    const pci::Function& function = bus.at(i);
    const u16 at = function.is_bridge() ? u16{0} : function.find(pci::ExtendedCapabilityId::SrIov);
    if (at == 0 || function.virtual_total() == 0) continue;
    json names = json::array();
    for (const SourceId vf : virtual_functions(function, at)) {
      const pci::Function* const known = bus.find(vf);
      if (!known || !known->enabled()) continue;
      names.push_back(function_name(vf));
      physical[vf] = function.source();
    }
    sriov[function.source()] = {
        {"totalvfs", function.virtual_total()}, {"numvfs", names.size()}, {"vfs", std::move(names)}};
  }

  json all = json::array();
  for (usize i = 0; i < bus.size(); ++i) {
    const pci::Function& function = bus.at(i);
    if (!function.enabled()) continue;
    const SourceId source = function.source();
    const IommuDevice* const device = kernel.iommu().find(source);
    const vfio::PciDevice* const drivable = kernel.vfio().find(source);
    const u32 subsystem = function.is_bridge() ? 0 : function.read32(pci::reg::kSubsystem);
    const auto override_name = drivers.override_of(source);
    const auto its_sriov = sriov.find(source);
    const auto its_physical = physical.find(source);
    all.push_back({{"bdf", function_name(source)},
                   {"vendor", function.vendor()},
                   {"device", function.device()},
                   {"subsystem_vendor", subsystem & 0xffff},
                   {"subsystem_device", subsystem >> 16},
                   {"class", function.class_code()},
                   {"revision", function.revision()},
                   {"vfio", drivable ? json(drivable->index) : json()},
                   {"group", device ? json(device->group().id()) : json()},
                   {"driver", drivable               ? json("vfio-pci")
                              : function.is_bridge() ? json("pcieport")
                                                     : json()},
                   {"driver_override", override_name ? json(*override_name) : json()},
                   {"config_size", function.express_type() != pci::Function::kConventional ? 4096 : 256},
                   {"bars", function.is_bridge() ? json::array() : bars_of(function)},
                   {"sriov", its_sriov != sriov.end() ? its_sriov->second : json()},
                   {"physfn", its_physical != physical.end() ? json(function_name(its_physical->second)) : json()}});
  }
  // An override is whatever bytes a program chose.
  return all.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace perdure::process
