#include "tool/metal/qemu.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "tool/metal/gcmd_trace.h"
#include "tool/metal/lines.h"
#include "tool/metal/process.h"

namespace perdure::tool::metal {

namespace {

namespace fs = std::filesystem;

constexpr Version kOldest{.major = 7, .minor = 2, .micro = 0};
// docs/metal.md has what is known to differ from one to the next.
constexpr unsigned kNewestMajor = 10;
constexpr int kAnswerMs = 20'000;

struct NeededDevice {
  std::string_view name;  // ours
  std::string_view of_qemu;
  std::string_view options;
};
// edu reaches 32 bits so that its targets, too, are where there is no RAM (hardware.md §13).
constexpr NeededDevice kDevices[] = {
    {"ohci", "pci-ohci", "pci-ohci"},
    {"edu", "edu", "edu,dma_mask=0xffffffff"},
    {"e1000e", "e1000e", "e1000e,netdev=net0,romfile="},
    {"nvme", "nvme", "nvme,drive=disk0,serial=perdure"},
};

std::expected<std::string, std::string> ask(const std::string& program, const std::vector<std::string>& question) {
  auto answer = run(program, question, kAnswerMs);
  if (!answer) return std::unexpected(answer.error());
  if (answer->ending.signalled || answer->ending.code != 0) {
    return std::unexpected(fmt::format("{} {}: {}", program, fmt::join(question, " "), answer->ending.to_string()));
  }
  return std::move(answer->output);
}

bool has_word(std::string_view text, std::string_view word) {
  const auto part_of_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
  };
  for (usize at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const usize end = at + word.size();
    if ((at == 0 || !part_of_word(text[at - 1])) && (end == text.size() || !part_of_word(text[end]))) return true;
  }
  return false;
}

// Where QEMU itself looks for it.
fs::path firmware(std::string_view directories, const char* file) {
  while (!directories.empty()) {
    const usize end = directories.find('\n');
    const fs::path candidate = fs::path(directories.substr(0, end)) / file;
    std::error_code ignored;
    if (fs::exists(candidate, ignored)) return candidate;
    directories.remove_prefix(end == std::string_view::npos ? directories.size() : end + 1);
  }
  return {};
}

}  // namespace

std::string Version::to_string() const {
  return fmt::format("{}.{}.{}", major, minor, micro);
}

std::expected<Version, std::string> parse_version(std::string_view says) {
  constexpr std::string_view kBefore = "QEMU emulator version ";
  const usize at = says.find(kBefore);
  const auto fault = std::unexpected("no version in what it says: " + printable(says.substr(0, 200)));
  if (at == std::string_view::npos) return fault;
  says.remove_prefix(at + kBefore.size());
  unsigned parts[3] = {};
  for (usize i = 0; i < 3; ++i) {
    const auto [end, error] = std::from_chars(says.data(), says.data() + says.size(), parts[i]);
    if (error != std::errc()) return fault;
    says.remove_prefix(static_cast<usize>(end - says.data()));
    if (i < 2 && !says.starts_with('.')) return fault;
    if (i < 2) says.remove_prefix(1);
  }
  return Version{.major = parts[0], .minor = parts[1], .micro = parts[2]};
}

std::string unsuitable(const Version& version, bool any_version) {
  if (version < kOldest) {
    return fmt::format("QEMU {} is too old: {}.{} is the first that this was tried with", version.to_string(),
                       kOldest.major, kOldest.minor);
  }
  if (version.major > kNewestMajor && !any_version) {
    return fmt::format(
        "QEMU {} is newer than any whose VT-d is known here ({}.x): its deviations would be taken for ours "
        "(--any-version runs it all the same)",
        version.to_string(), kNewestMajor);
  }
  return {};
}

std::expected<Qemu, std::string> find_qemu(const std::string& program, const MachineSpec& machine, bool any_version) {
  const auto says = ask(program, {"--version"});
  if (!says) {
    return std::unexpected(fmt::format("no QEMU that runs here ({}); Debian: qemu-system-x86", says.error()));
  }
  const auto version = parse_version(*says);
  if (!version) return std::unexpected(fmt::format("{}: {}", program, version.error()));
  if (std::string why = unsuitable(*version, any_version); !why.empty()) return std::unexpected(std::move(why));

  const auto lacks = [&](std::string_view what) {
    return std::unexpected(fmt::format("QEMU {} at {} is without {}", version->to_string(), program, what));
  };
  const auto accelerators = ask(program, {"-accel", "help"});
  if (!accelerators || !has_word(*accelerators, "tcg")) return lacks("the accelerator tcg");
  const auto devices = ask(program, {"-device", "help"});
  if (!devices) return std::unexpected(devices.error());
  for (const std::string_view name : {"intel-iommu", "isa-debug-exit"}) {
    if (!has_word(*devices, name)) return lacks(fmt::format("the device {}", name));
  }
  for (const NeededDevice& d : kDevices) {
    const bool wanted = std::find(machine.devices.begin(), machine.devices.end(), d.name) != machine.devices.end() ||
                        (machine.probes && d.name == "edu");
    if (wanted && !has_word(*devices, d.of_qemu)) return lacks(fmt::format("the device {}", d.of_qemu));
  }
  const auto options = ask(program, {"-device", "intel-iommu,help"});
  for (const std::string_view option : {"aw-bits", "intremap", "x-scalable-mode"}) {
    const bool wanted = option != "x-scalable-mode" || machine.scalable;
    if (wanted && (!options || !has_word(*options, option))) return lacks(fmt::format("intel-iommu's {}", option));
  }
  const auto events = ask(program, {"-trace", "help"});
  if (!events || !has_word(*events, kGcmdEvent)) return lacks(fmt::format("the trace event {}", kGcmdEvent));

  Qemu qemu{.program = program, .version = *version, .says = says->substr(0, says->find('\n')), .qboot = {}};
  const auto directories = ask(program, {"-L", "help"});
  if (machine.seabios) {
    if (!directories || firmware(*directories, "bios-256k.bin").empty()) return lacks("SeaBIOS (Debian: seabios)");
  } else {
    qemu.qboot = directories ? firmware(*directories, "qboot.rom") : fs::path();
    if (qemu.qboot.empty()) return lacks("qboot.rom (Debian: qemu-system-data)");
  }
  return qemu;
}

std::vector<std::string> arguments(const Qemu& qemu, const MachineSpec& machine, const Attachments& with) {
  // What a comma ends must have its own commas doubled.
  const auto escaped = [](const fs::path& path) {
    std::string text;
    for (const char c : path.string()) text += c == ',' ? std::string(",,") : std::string(1, c);
    return text;
  };
  std::vector<std::string> all{"-M",          "q35",
                               "-accel",      "tcg",
                               "-m",          fmt::format("{}M", kMemoryBytes >> 20),
                               "-nodefaults", "-no-user-config",
                               "-display",    "none",
                               "-no-reboot"};
  const auto add = [&](std::string option, std::string value) {
    all.push_back(std::move(option));
    all.push_back(std::move(value));
  };
  if (!machine.seabios) add("-bios", qemu.qboot.string());
  if (machine.icount_shift != 0) add("-icount", fmt::format("shift={},sleep=off", machine.icount_shift));
  add("-kernel", with.kernel.string());
  if (!with.modules.empty()) add("-initrd", with.modules.string());
  add("-append", with.words);
  add("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04");
  // Not a socket: what is written to one is written later, when the host sees fit, and no run is like another.
  add("-serial", "stdio");
  add("-chardev", fmt::format("socket,id=monitor0,fd={}", with.monitor));
  add("-mon", "chardev=monitor0,mode=control");
  add("-device", fmt::format("intel-iommu,intremap={},aw-bits=48{}", machine.interrupts ? "on" : "off",
                             machine.scalable ? ",x-scalable-mode=on" : ""));
  for (const std::string& name : machine.devices) {
    const auto* device =
        std::find_if(std::begin(kDevices), std::end(kDevices), [&](const NeededDevice& d) { return d.name == name; });
    if (device == std::end(kDevices)) continue;
    if (name == "e1000e") add("-netdev", fmt::format("socket,id=net0,fd={}", with.network));
    if (name == "nvme") {
      // Slow, so that reads are still queued when the kernel is replaced (hardware.md §13).
      add("-drive", fmt::format("if=none,id=disk0,file={},format=raw,readonly=on,throttling.iops-total={}",
                                escaped(with.disk), 500));
    }
    add("-device", std::string(device->options));
  }
  if (machine.probes) {
    for (const char* place : {"3.0,multifunction=on", "3.1", "10.0"}) {
      add("-device", fmt::format("edu,dma_mask=0xffffffffffffffff,addr={}", place));
    }
  }
  add("-trace", std::string(kGcmdEvent));
  add("-D", with.trace.string());
  return all;
}

}  // namespace perdure::tool::metal
