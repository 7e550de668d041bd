// Configuration registers (PCI Express Base 6.0, §7.5 and §7.7; PCI Local Bus 3.0).
#pragma once
#include "core/base/bits.h"

namespace perdure::pci {

namespace reg {
inline constexpr u16 kVendor = 0x00;
inline constexpr u16 kDevice = 0x02;
inline constexpr u16 kCommand = 0x04;
inline constexpr u16 kStatus = 0x06;
inline constexpr u16 kClass = 0x08;  // revision in the low byte
inline constexpr u16 kHeaderType = 0x0e;
inline constexpr u16 kBars = 0x10;
inline constexpr u16 kPrimaryBus = 0x18;
inline constexpr u16 kSecondaryBus = 0x19;
inline constexpr u16 kSubordinateBus = 0x1a;
inline constexpr u16 kIoBase = 0x1c;  // base, then limit: 8 bits each
inline constexpr u16 kMemoryBase = 0x20;
inline constexpr u16 kMemoryLimit = 0x22;
inline constexpr u16 kPrefetchBase = 0x24;
inline constexpr u16 kPrefetchLimit = 0x26;
inline constexpr u16 kPrefetchBaseUpper = 0x28;
inline constexpr u16 kPrefetchLimitUpper = 0x2c;
inline constexpr u16 kSubsystem = 0x2c;
inline constexpr u16 kIoBaseUpper = 0x30;  // base, then limit: 16 bits each
inline constexpr u16 kCapabilities = 0x34;
inline constexpr u16 kInterruptPin = 0x3d;
inline constexpr u16 kBridgeControl = 0x3e;
}  // namespace reg

struct Command {
  static constexpr u16 kIo = 1 << 0;
  static constexpr u16 kMemory = 1 << 1;
  static constexpr u16 kBusMaster = 1 << 2;
  static constexpr u16 kInterruptDisable = 1 << 10;
};
struct Status {
  static constexpr u16 kCapabilities = 1 << 4;
};
struct BridgeControl {
  static constexpr u16 kSecondaryReset = 1 << 6;
};
struct HeaderType {
  static constexpr u8 kMultiFunction = 0x80;
  static constexpr u8 kLayout = 0x7f;
  static constexpr u8 kBridge = 1;
};

// Base class and sub-class.
struct ClassCode {
  static constexpr u32 kDisplay = 0x03;
  static constexpr u32 kUsb = 0x0c03;
};

struct BarBits {
  static constexpr u32 kIo = 1;
  static constexpr u32 kWideMask = 6;
  static constexpr u32 kWide = 4;
  static constexpr u32 kPrefetchable = 8;
  static constexpr u32 kMemoryFlags = 15;
  static constexpr u32 kIoFlags = 3;
};

enum class CapabilityId : u8 {
  PowerManagement = 0x01,
  VitalProductData = 0x03,
  Msi = 0x05,
  PciExpress = 0x10,
  Msix = 0x11,
  AdvancedFeatures = 0x13
};
enum class ExtendedCapabilityId : u16 { Acs = 0x0d, Ari = 0x0e, Ats = 0x0f, SrIov = 0x10, Pri = 0x13, Pasid = 0x1b };

struct Msi {
  static constexpr u16 kControl = 2;
  static constexpr u16 kAddress = 4;
  static constexpr u16 kUpperAddress = 8;  // 64-bit form
  static constexpr u16 kData32 = 8;
  static constexpr u16 kData64 = 12;
  using Enable = Bit<0, u16>;
  using Capable = Field<3, 1, u16>;  // log2 of vectors
  using Enabled = Field<6, 4, u16>;
  using Wide = Bit<7, u16>;
};
struct Msix {
  static constexpr u16 kControl = 2;
  static constexpr u16 kTable = 4;
  using LastEntry = Field<10, 0, u16>;
  using FunctionMask = Bit<14, u16>;
  using Enable = Bit<15, u16>;
  using TableBar = Field<2, 0, u32>;
  static constexpr u64 kEntryBytes = 16;
  static constexpr u32 kVectorMasked = 1;
};

struct VitalProductData {
  static constexpr u16 kAddress = 2;
  static constexpr u16 kData = 4;
  // Of the address: written 0 to read, 1 to write; flips when that is done.
  static constexpr u16 kFlag = 1 << 15;
};
struct PciExpress {
  static constexpr u16 kFlags = 2;
  static constexpr u16 kDeviceCapabilities = 4;
  static constexpr u16 kDeviceControl = 8;
  static constexpr u16 kDeviceStatus = 10;
  static constexpr u16 kDeviceCapabilities2 = 0x24;
  static constexpr u16 kDeviceControl2 = 0x28;
  static constexpr u16 kAriForwarding = 1 << 5;  // of the device capabilities 2: can, of the device control 2: does
  using Version = Field<3, 0, u16>;              // of the flags; 2 has the registers above
  using PortType = Field<7, 4, u16>;
  static constexpr u16 kRootPort = 4;
  static constexpr u16 kUpstreamPort = 5;
  static constexpr u16 kDownstreamPort = 6;
  static constexpr u16 kToConventional = 7;    // bridge from PCI Express to a conventional bus
  static constexpr u16 kFromConventional = 8;  // the other way round
  static constexpr u16 kEventCollector = 10;
  using FunctionReset = Bit<28, u32>;                  // of the device capabilities
  static constexpr u16 kStartReset = 1 << 15;          // of the device control
  static constexpr u16 kTransactionsPending = 1 << 5;  // of the device status
};
struct Ari {
  static constexpr u16 kCapability = 4;
  using NextFunction = Field<15, 8, u16>;  // 0: the last
};
// Single Root I/O Virtualization (9.3.3).
struct Virtualization {
  static constexpr u16 kControl = 0x08;
  static constexpr u16 kEnable = 1 << 0;
  static constexpr u16 kMemory = 1 << 3;  // BARs of virtual functions answer
  static constexpr u16 kTotal = 0x0e;
  static constexpr u16 kNumber = 0x10;
  static constexpr u16 kFirst = 0x14;  // of requester ids, from the physical function's
  static constexpr u16 kStride = 0x16;
  static constexpr u16 kDevice = 0x1a;
  static constexpr u16 kBars = 0x24;
};
struct AccessControl {
  static constexpr u16 kCapabilities = 4;
  static constexpr u16 kControl = 6;
  static constexpr u16 kSourceValidation = 1 << 0;
  static constexpr u16 kRequestRedirect = 1 << 2;
  static constexpr u16 kCompletionRedirect = 1 << 3;
  static constexpr u16 kUpstreamForwarding = 1 << 4;
};
struct AdvancedFeatures {
  static constexpr u16 kCapabilities = 3;
  static constexpr u16 kControl = 4;
  static constexpr u16 kStatus = 5;
  static constexpr u8 kCanTellPending = 1 << 0;
  static constexpr u8 kCanReset = 1 << 1;
};

}  // namespace perdure::pci
