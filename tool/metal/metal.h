// `perdure metal`: the core on a machine that others wrote, QEMU's q35 with its intel-iommu, live-updated there
// (docs/metal.md).
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace perdure::tool::metal {

struct MetalOptions {
  unsigned hops = 2;
  std::vector<std::string> devices;  // empty: all that the mode allows
  std::string tables = "legacy";     // or "scalable" (second stage)
  std::string firmware = "qboot";    // or "seabios"
  bool icount = false;               // instructions are the clock: the same run each time
  bool interrupts = false;           // the edu's transfers interrupt, through the unit's table
  std::string breakage;              // kBreakages, or empty
  bool json = false;
  bool verbose = false;
  bool conformance = false;  // the list of hardware's behaviours instead of updates
  std::string dump;          // memory at the last jump goes here
  bool raw = false;
  std::string qemu = "qemu-system-x86_64";
  bool any_version = false;
  std::string images;  // the guest's; empty: where the build puts them
  u64 seed = 1;
  unsigned stretch_us = 0;  // devices run for so long before and after each jump; 0: by the number of hops
  unsigned timeout = 0;     // seconds; 0: by the number of hops
};

// Of --device, in the order of their places on the bus.
inline constexpr const char* kDeviceNames[] = {"ohci", "edu", "e1000e", "nvme"};
inline constexpr const char* kBreakages[] = {"te-gap",    "no-iotlb-flush", "no-context-flush",
                                             "wrong-did", "table-page",     "record"};

// What a caller that is no person tells apart.
inline constexpr int kClean = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kSkipped = 77;

// Where the guest's images are.
std::filesystem::path image_directory(const MetalOptions& options);
// Says why nothing ran; kSkipped.
int skip(const MetalOptions& options, const std::string& why);

int run_metal(const MetalOptions& options);

}  // namespace perdure::tool::metal
