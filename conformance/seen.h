// What a behaviour showed: up to eight observations in order, comparable and printable.
#pragma once
#include "core/base/log.h"
#include "core/base/types.h"

namespace perdure::conformance {

enum class What : u8 {
  Nothing,
  Lands,    // DMA reached target page `value`
  Faults,   // DMA was blocked; the fault record has reason `value`, and requester, page and direction are right
  Lost,     // DMA was blocked, or went somewhere else, and no fault was recorded
  Number,   // a number the behaviour describes
  Wrong,    // a fault record of `value` with another requester, page or direction than the request's
  TimeOut,  // the unit did not do it in time
};

struct Observation {
  What what = What::Nothing;
  u32 value = 0;
  constexpr bool operator==(const Observation&) const = default;
};

constexpr Observation lands(u32 target) {
  return {What::Lands, target};
}
constexpr Observation faults(u8 reason) {
  return {What::Faults, reason};
}
constexpr Observation lost() {
  return {What::Lost};
}
constexpr Observation number(u64 value) {
  return {What::Number, static_cast<u32>(value)};
}
constexpr Observation yes() {
  return number(1);
}
constexpr Observation no() {
  return number(0);
}
constexpr Observation yes_if(bool b) {
  return number(b ? 1 : 0);
}
constexpr Observation time_out() {
  return {What::TimeOut};
}

class Seen {
 public:
  static constexpr unsigned kMost = 8;

  constexpr Seen() = default;
  template <class... O>
    requires(sizeof...(O) >= 1 && sizeof...(O) <= kMost && (std::same_as<O, Observation> && ...))
  constexpr Seen(O... observations) : items_{observations...}, count_(sizeof...(O)) {}

  constexpr bool operator==(const Seen&) const = default;
  constexpr bool empty() const { return count_ == 0; }
  constexpr unsigned size() const { return count_; }
  constexpr Observation operator[](unsigned i) const { return items_[i]; }

 private:
  Observation items_[kMost]{};
  unsigned count_ = 0;
};

Line& operator<<(Line& line, const Seen& seen);

}  // namespace perdure::conformance
