// One formatted line to the machine's log. The buffer is fixed: a longer line is cut, never split.
#pragma once
#include <concepts>
#include <string_view>

#include "core/base/errno.h"
#include "core/base/machine.h"

namespace perdure {

struct Hex {
  u64 value;
};

// Built part by part: `Line() << "unit " << Hex{base} << ": bad DID " << did`.
class Line {
 public:
  Line& operator<<(std::string_view s) {
    for (char c : s) {
      if (length_ < sizeof(text_)) text_[length_++] = c;
    }
    return *this;
  }
  // Not through string_view, whose length would need strlen from outside.
  Line& operator<<(const char* s) {
    for (; *s != 0; ++s) *this << std::string_view(s, 1);
    return *this;
  }
  template <std::integral I>
    requires(!std::same_as<I, bool> && !std::same_as<I, char>)
  Line& operator<<(I v) {
    if (v < 0) {
      *this << std::string_view("-");
      return number(~static_cast<u64>(v) + 1, 10);
    }
    return number(static_cast<u64>(v), 10);
  }
  Line& operator<<(Hex h) {
    *this << std::string_view("0x");
    return number(h.value, 16);
  }
  template <class Tag>
  Line& operator<<(Address<Tag> a) {
    return *this << Hex{a.value};
  }
  Line& operator<<(Errno e) { return *this << errno_name(e); }
  std::string_view view() const { return {text_, length_}; }

 private:
  Line& number(u64 v, unsigned base) {
    char digits[20];
    unsigned n = 0;
    do {
      digits[n++] = "0123456789abcdef"[v % base];
      v /= base;
    } while (v != 0);
    while (n > 0) *this << std::string_view(&digits[--n], 1);
    return *this;
  }
  char text_[240];
  usize length_ = 0;
};

inline void log(Machine& m, LogLevel level, const Line& line) {
  m.log(level, line.view());
}

}  // namespace perdure
