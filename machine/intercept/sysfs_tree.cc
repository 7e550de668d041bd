#include "machine/intercept/sysfs_tree.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace perdure::intercept {

namespace {

using nlohmann::json;
using Kind = Node::Kind;

// Numbers of device nodes. Linux gives most of them out as they come, so that programs ask sysfs and not a list.
constexpr u32 kMisc = 10;
constexpr u32 kVfioContainer = 196;
constexpr u32 kIommu = 258;
constexpr u32 kLiveUpdate = 259;
constexpr u32 kVfioGroups = 510;
constexpr u32 kVfioDevices = 511;

// All functions stand side by side below one root, whatever bridges they are behind.
constexpr std::string_view kDevices = "/sys/devices/pci0000:00/";

template <class... T>
std::string print(const char* format, T... values) {
  std::array<char, 256> text;
  const int n = std::snprintf(text.data(), text.size(), format, values...);
  return std::string(text.data(), static_cast<usize>(n));
}

class Builder {
 public:
  explicit Builder(bool next_is_loaded) {
    for (const char* path :
         {"/", "/dev", "/proc", "/sys", "/sys/bus", "/sys/class", "/sys/devices", "/sys/kernel", "/sys/kernel/debug"}) {
      tree_[path] = {.kind = Kind::Through, .mode = 0755};
    }
    // A program that finds it walks hardware's page tables through it.
    tree_["/sys/kernel/debug/iommu"] = {.kind = Kind::Absent};
    for (const char* path :
         {"/dev/vfio", "/dev/vfio/devices", "/sys/bus/pci", "/sys/bus/pci/devices", "/sys/bus/pci/drivers",
          "/sys/bus/pci/drivers/vfio-pci", "/sys/class/vfio-dev", "/sys/kernel/iommu_groups"}) {
      directory(path);
    }
    device("/dev/iommu", 0660, kMisc, kIommu);
    device("/dev/liveupdate", 0600, kMisc, kLiveUpdate);
    device("/dev/vfio/vfio", 0666, kMisc, kVfioContainer);
    driver("vfio-pci");
    file("/sys/bus/pci/drivers_probe", 0200, "");
    kexec(next_is_loaded);
  }

  void add(const json& d) {
    const std::string bdf = d.at("bdf");
    const std::string at = std::string(kDevices) + bdf;
    directory("/sys/devices/pci0000:00");
    directory(at);
    link("/sys/bus/pci/devices/" + bdf, "../../../devices/pci0000:00/" + bdf);
    link(at + "/subsystem", "../../../bus/pci");
    identity(d, bdf, at);
    resources(d, at);
    file(at + "/numa_node", 0644, "-1\n");
    const json only = d.value("driver_override", json());
    file(at + "/driver_override", 0644, (only.is_string() ? only.get<std::string>() : "(null)") + "\n");
    if (const std::string name = d.value("driver", json()).is_string() ? d["driver"].get<std::string>() : "";
        !name.empty()) {
      driver(name);
      link(at + "/driver", "../../../bus/pci/drivers/" + name);
      link("/sys/bus/pci/drivers/" + name + "/" + bdf, "../../../../devices/pci0000:00/" + bdf);
    }
    if (is_number(d, "group")) group(d["group"].get<u32>(), bdf, at, is_number(d, "vfio"));
    if (is_number(d, "vfio")) vfio(d["vfio"].get<u32>(), bdf, at);
    if (d.contains("sriov") && d["sriov"].is_object()) sriov(d["sriov"], at);
    if (d.contains("physfn") && d["physfn"].is_string()) {
      link(at + "/physfn", "../" + d["physfn"].get<std::string>());
    }
  }

  NodeTree take() { return std::move(tree_); }

 private:
  static bool is_number(const json& d, const char* name) { return d.contains(name) && d[name].is_number(); }
  static u32 number(const json& d, const char* name) { return is_number(d, name) ? d[name].get<u32>() : 0; }

  void directory(const std::string& path) { tree_[path] = {.kind = Kind::Directory, .mode = 0755}; }
  void file(const std::string& path, u32 mode, std::string text) {
    tree_[path] = {.kind = Kind::File, .mode = mode, .text = std::move(text)};
  }
  void link(const std::string& path, std::string target) {
    tree_[path] = {.kind = Kind::Link, .mode = 0777, .text = std::move(target)};
  }
  void device(const std::string& path, u32 mode, u32 major_number, u32 minor_number) {
    tree_[path] = {.kind = Kind::Device, .mode = mode, .major = major_number, .minor = minor_number};
  }

  void driver(const std::string& name) {
    const std::string at = "/sys/bus/pci/drivers/" + name;
    directory(at);
    for (const char* order : {"/bind", "/unbind", "/new_id", "/remove_id"}) file(at + order, 0200, "");
  }

  // kexec's own program looks there before it jumps.
  void kexec(bool next_is_loaded) {
    directory("/sys/kernel/kexec");
    file("/sys/kernel/kexec/loaded", 0444, next_is_loaded ? "1\n" : "0\n");
    file("/sys/kernel/kexec/crash_loaded", 0444, "0\n");
    link("/sys/kernel/kexec_loaded", "kexec/loaded");
    link("/sys/kernel/kexec_crash_loaded", "kexec/crash_loaded");
  }

  void identity(const json& d, const std::string& bdf, const std::string& at) {
    const u32 vendor = number(d, "vendor");
    const u32 id = number(d, "device");
    const u32 subsystem_vendor = number(d, "subsystem_vendor");
    const u32 subsystem = number(d, "subsystem_device");
    const u32 code = number(d, "class");
    file(at + "/vendor", 0444, print("0x%04x\n", vendor));
    file(at + "/device", 0444, print("0x%04x\n", id));
    file(at + "/subsystem_vendor", 0444, print("0x%04x\n", subsystem_vendor));
    file(at + "/subsystem_device", 0444, print("0x%04x\n", subsystem));
    file(at + "/class", 0444, print("0x%06x\n", code));
    file(at + "/revision", 0444, print("0x%02x\n", number(d, "revision")));
    const std::string alias = print("pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X", vendor, id, subsystem_vendor,
                                    subsystem, code >> 16 & 0xff, code >> 8 & 0xff, code & 0xff);
    file(at + "/modalias", 0444, alias + "\n");
    std::string event;
    if (d.contains("driver") && d["driver"].is_string()) event = "DRIVER=" + d["driver"].get<std::string>() + "\n";
    event += print("PCI_CLASS=%X\nPCI_ID=%04X:%04X\nPCI_SUBSYS_ID=%04X:%04X\n", code, vendor, id, subsystem_vendor,
                   subsystem);
    file(at + "/uevent", 0644, event + "PCI_SLOT_NAME=" + bdf + "\nMODALIAS=" + alias + "\n");
    file(at + "/config", 0644, config(d));
  }

  // Only what the function is: its registers are read through VFIO.
  static std::string config(const json& d) {
    std::string bytes(is_number(d, "config_size") ? d["config_size"].get<usize>() : 256, '\0');
    const auto put = [&](usize offset, u32 value, usize width) { std::memcpy(bytes.data() + offset, &value, width); };
    put(0x00, number(d, "vendor"), 2);
    put(0x02, number(d, "device"), 2);
    put(0x08, number(d, "class") << 8 | number(d, "revision"), 4);
    put(0x2c, number(d, "subsystem_vendor"), 2);
    put(0x2e, number(d, "subsystem_device"), 2);
    return bytes;
  }

  void resources(const json& d, const std::string& at) {
    constexpr usize kBars = 6;
    constexpr usize kLines = 13;  // BARs, ROM, six of SR-IOV
    std::string text;
    const json bars = d.value("bars", json::array());
    for (usize i = 0; i < kLines; ++i) {
      u64 base = 0;
      u64 size = 0;
      u64 flags = 0;
      if (i < kBars && i < bars.size() && bars[i].is_object()) {
        base = bars[i].value("base", u64{0});
        size = bars[i].value("size", u64{0});
        flags = bars[i].value("flags", u64{0});
      }
      using Long = unsigned long long;
      text += print("0x%016llx 0x%016llx 0x%016llx\n", Long{size == 0 ? 0 : base},
                    Long{size == 0 ? 0 : base + size - 1}, Long{size == 0 ? 0 : flags});
    }
    file(at + "/resource", 0444, text);
  }

  void group(u32 id, const std::string& bdf, const std::string& at, bool has_node) {
    const std::string name = std::to_string(id);
    const std::string place = "/sys/kernel/iommu_groups/" + name;
    link(at + "/iommu_group", "../../../kernel/iommu_groups/" + name);
    directory(place);
    directory(place + "/devices");
    link(place + "/devices/" + bdf, "../../../../devices/pci0000:00/" + bdf);
    file(place + "/type", 0644, "DMA\n");
    file(place + "/reserved_regions", 0444, "0x00000000fee00000 0x00000000feefffff msi\n");
    if (has_node) device("/dev/vfio/" + name, 0600, kVfioGroups, id);
  }

  void vfio(u32 id, const std::string& bdf, const std::string& at) {
    const std::string name = "vfio" + std::to_string(id);
    const std::string place = at + "/vfio-dev/" + name;
    directory(at + "/vfio-dev");
    directory(place);
    const std::string numbers = std::to_string(kVfioDevices) + ":" + std::to_string(id);
    file(place + "/dev", 0444, numbers + "\n");
    file(place + "/uevent", 0644,
         print("MAJOR=%u\nMINOR=%u\nDEVNAME=vfio/devices/%s\n", kVfioDevices, id, name.c_str()));
    link(place + "/device", "../../../" + bdf);
    link(place + "/subsystem", "../../../../../class/vfio-dev");
    link("/sys/class/vfio-dev/" + name, "../../devices/pci0000:00/" + bdf + "/vfio-dev/" + name);
    device("/dev/vfio/devices/" + name, 0600, kVfioDevices, id);
  }

  void sriov(const json& s, const std::string& at) {
    file(at + "/sriov_totalvfs", 0444, std::to_string(number(s, "totalvfs")) + "\n");
    file(at + "/sriov_numvfs", 0644, std::to_string(number(s, "numvfs")) + "\n");
    usize i = 0;
    for (const json& bdf : s.value("vfs", json::array())) {
      link(at + "/virtfn" + std::to_string(i++), "../" + bdf.get<std::string>());
    }
  }

  NodeTree tree_;
};

}  // namespace

NodeTree node_tree(const std::string& devices, bool next_is_loaded) {
  Builder builder(next_is_loaded);
  for (const json& d : json::parse(devices)) builder.add(d);
  return builder.take();
}

}  // namespace perdure::intercept
